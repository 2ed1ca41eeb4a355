"""Untrusted values as text that is safe to read: nothing is invisible, nothing is endless.

Every string of the page and of the summary passes through `visible`: a model's answer may contain
control characters, bidirectional overrides or lone surrogates, and a reader must see them instead
of being misled by them. Escaping for HTML or Markdown is done later, elsewhere.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime

from phi3_lora_qa.dataclass_json import Json

TEXT_LIMIT = 2_000
"""The most characters of one question, reference or answer that the page shows."""

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

# Line feed and tab are kept, and so are the joiners that emoji and several scripts need. The last
# range is the supplement of tags and variation selectors, which can hide whole texts.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Return the text with control and invisible characters and surrogates as ``⟨U+XXXX⟩``."""
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def one_line(text: str, limit: int) -> str:
    """Return visible text on one line of at most ``limit`` characters."""
    line = " ".join(visible(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The beginning of a text; ``whole`` is the length of the full text in characters."""

    text: str
    whole: int

    @property
    def is_cut(self) -> bool:
        """Whether something was left out."""
        return len(self.text) < self.whole


def cut(text: str, limit: int = TEXT_LIMIT) -> Cut:
    """Keep the first ``limit`` characters."""
    return Cut(text=text[:limit], whole=len(text))


def to_float(value: Json) -> float:
    """Return a value of a record as a number, NaN if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def number(value: Json, *, signed: bool = False) -> str:
    """Return a number with three or four digits, or any other scalar as text.

    Args:
        value: A number, the name of a non-finite one, or another JSON scalar.
        signed: Whether a positive number has a plus sign.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return visible(str(value))
    sign = MINUS if value < 0 else "+" if signed and value > 0 else ""
    return sign + _magnitude(abs(value))


def _magnitude(size: float) -> str:
    if not math.isfinite(size):
        return "∞" if size > 0 else "NaN"
    if isinstance(size, int):
        return str(size)
    if size and not 1e-3 <= size < 1e6:
        return f"{size:.3g}"
    return (
        f"{size:.1f}"
        if size >= 100
        else f"{size:.3f}"
        if size >= 0.01 or not size
        else f"{size:.4f}"
    )


def interval(low: float, high: float, *, of_mean: bool) -> str:
    """Return an interval of the difference, or of the tuned mean, as text."""
    if of_mean:
        return f"tuned {number(low)} to {number(high)}"
    return f"{number(low, signed=True)} to {number(high, signed=True)}"


def duration(value: Json) -> str:
    """Return seconds as text: ``0.31 s``, ``12 s``, ``2 min 5 s``."""
    seconds = to_float(value)
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def format_timestamp(value: Json) -> str:
    """Return an ISO 8601 time in a readable form: ``2026-11-24 07:40:12 UTC``."""
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return visible(str(value))
    return f"{when:%Y-%m-%d %H:%M:%S} {when.tzname() or ''}".rstrip()


def brief(value: str) -> str:
    """Return the beginning of a long text; the record contains all of it."""
    piece = cut(value)
    return f"{piece.text}… (the full text is in record.json)" if piece.is_cut else piece.text


def plain(value: Json) -> str:
    """Return any JSON value as text: scalars and lists in words, nested values as indented JSON."""
    return brief(_written(value))


def _written(value: Json) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int() | str():
            return str(value)
        case float():
            return f"{value:.10g}"
        case list() | tuple() if all(isinstance(part, str | int | float) for part in value):
            return ", ".join(_written(part) for part in value)
        case _:
            return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def anchor(kind: str, identifier: str) -> str:
    """Return a stable element id for a deep link, for any identifier.

    A readable identifier stays readable; one that had to be changed gets a short hash, so that no
    two are equal.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", identifier)[:60].strip("-")
    if slug == identifier:
        return f"{kind}-{slug}"
    digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}-{slug}-{digest[:8]}".replace("--", "-")
