"""Limits: what a metric of a group of items must reach for an adapter to pass."""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.chat_items import DEFAULT_GROUP, require_group
from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.setting_specs import PROFILES

EVERY_OTHER_GROUP = "*"

METRICS = (
    "loss",
    "exact_match",
    "token_f1",
    "rouge_l",
    "chrf",
    "bleu",
    "checks",
    "json_valid",
    "refusal",
    "stopped",
    "repetition",
    "empty",
    "length_ratio",
    "choice",
    "divergence",
    "agreement",
)
"""What a limit may name: the room metrics computes the answers' ones, scoring loss and stopped."""

UNBOUNDED = ("loss", "divergence")
"""The metrics in nats per token; the scores of all others lie between 0 and 1."""

RULES = {
    "at_least": "at least {}",
    "at_most": "at most {}",
    "improve_by": "better than the base by more than {}",
    "no_worse_than": "no worse than the base by more than {}",
}
"""The rules and how a report puts them."""

BASE, BASELINE = "base", "baseline"
"""What a limit may be against: the base, or the last accepted adapter."""

COMPARING = ("improve_by", "no_worse_than")
"""The rules that compare; the others hold the tuned mean against the value itself."""

_FIELDS = ("group", "metric", "rule", "value")
_OPTIONAL = ("against",)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One demand. ``value`` is in the metric's own unit: nats per token for the loss.

    ``at_least`` and ``at_most`` bound the tuned mean; ``improve_by`` the improvement over the
    base; ``no_worse_than`` is a non-inferiority margin. ``against`` is what these two compare
    with: ``base``, or ``baseline``, the last accepted adapter. ``group`` may be ``*``: every group
    that has no limit of its own for this metric (and this ``against``).
    """

    group: str
    metric: str
    rule: str
    value: float
    against: str = BASE

    def describe(self) -> str:
        """Return the demand in words, for the report."""
        words = RULES[self.rule].format(f"{self.value:g}")
        return f"{self.metric} {words.replace('the base', f'the {self.against}')}"


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """How much better at the target, in nats per token, and how much worse there and elsewhere."""

    better: float
    target: float
    elsewhere: float


# Nothing changed in any of n items settles a margin of 1 - 0.05^(1/n): 59 items one of 0.05, 29
# one of 0.10, 11 one of 0.25.
_PROFILES = dict(
    zip(
        PROFILES,
        (
            _Profile(better=0.05, target=0.02, elsewhere=0.05),
            _Profile(better=0.05, target=0.05, elsewhere=0.10),
            _Profile(better=0.0, target=0.25, elsewhere=0.25),
        ),
        strict=True,
    )
)
_WATCHED = ("loss", "exact_match", "token_f1")


def default_limits(groups: Sequence[str], profile: str = "default") -> tuple[Limit, ...]:
    """Return a built-in profile for a suite of these groups.

    Better at the target, where there is one, by about 5 % of perplexity (0.05 nats per token): less
    is not worth shipping, and a nearly dead adapter must not pass. Nowhere much worse. ``smoke``
    asks for so little that a dozen items can decide it.
    """
    asked, other = _PROFILES[profile], EVERY_OTHER_GROUP
    limits = (
        Limit(group=DEFAULT_GROUP, metric="loss", rule="improve_by", value=asked.better),
        Limit(group=DEFAULT_GROUP, metric="token_f1", rule="no_worse_than", value=asked.target),
        *(
            Limit(group=other, metric=metric, rule="no_worse_than", value=asked.elsewhere)
            for metric in _WATCHED
        ),
    )
    return tuple(limit for limit in limits if limit.group in (other, *groups))


def baseline_limits(profile: str = "default") -> tuple[Limit, ...]:
    """Return what a profile asks beside the last accepted adapter: to be no worse in any group."""
    return tuple(
        Limit(
            group=EVERY_OTHER_GROUP,
            metric=metric,
            rule="no_worse_than",
            value=_PROFILES[profile].elsewhere,
            against=BASELINE,
        )
        for metric in _WATCHED
    )


_MOST_BYTES = 4 << 20


def read_thresholds(path: Path, metrics: Sequence[str] = METRICS) -> tuple[Limit, ...]:
    """Read a TOML file of ``[[limit]]`` tables with group, metric, rule and value.

    Args:
        path: The file.
        metrics: The metrics that a limit may name.

    Raises:
        DataError: The file cannot be read, or a table is not exactly a limit; the message names
            the table and the nearest name that would do.
    """
    try:
        raw = tomllib.loads(read_text(path, _MOST_BYTES, "utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8 and no TOML are ValueErrors
        raise DataError(
            f"cannot read the thresholds {path}: {error}; give a TOML file of [[limit]] tables"
        ) from error
    for name in raw:
        if name != "limit":
            raise DataError(_unknown(str(path), "table", name, ("limit",)))
    tables = raw.get("limit")
    if not isinstance(tables, list) or not tables:
        raise DataError(f"{path} holds no limit; add at least one [[limit]] table")
    limits = tuple(
        _parse(table, metrics, f"{path}, limit {n}") for n, table in enumerate(tables, 1)
    )
    seen: set[tuple[str, str, str, str]] = set()
    for number, limit in enumerate(limits, 1):
        key = (limit.group, limit.metric, limit.rule, limit.against)
        if key in seen:
            raise DataError(
                f"{path}, limit {number}: group {escape(limit.group, 40)} has two limits "
                f"{limit.rule} for {limit.metric}; keep one"
            )
        seen.add(key)
    for number, limit in enumerate(limits, 1):
        _require_possible(limit, limits, f"{path}, limit {number}")
    return limits


def expand(limits: Iterable[Limit], groups: Sequence[str]) -> tuple[Limit, ...]:
    """Spell the limits out, group by group: first the suite's groups, then those it lacks.

    A limit for a group that the suite lacks is kept: it can never be judged, and the gate must say
    that the run is incomplete rather than forget what was asked for.
    """
    limits = tuple(limits)
    lacking = {limit.group: None for limit in limits if limit.group not in groups}
    lacking.pop(EVERY_OTHER_GROUP, None)
    own = {(limit.group, limit.metric, limit.against) for limit in limits}
    return tuple(
        replace(limit, group=group)
        for group in (*groups, *lacking)
        for limit in limits
        if limit.group == group
        or (
            limit.group == EVERY_OTHER_GROUP
            and group in groups
            and (group, limit.metric, limit.against) not in own
        )
    )


def _parse(table: object, metrics: Sequence[str], where: str) -> Limit:
    if not isinstance(table, Mapping):
        raise DataError(f"{where} is no table; write [[limit]] and its fields below")
    for name in table:
        if name not in (*_FIELDS, *_OPTIONAL):
            raise DataError(_unknown(where, "field", name, (*_FIELDS, *_OPTIONAL)))
    for name in _FIELDS:
        if name not in table:
            raise DataError(f"{where} has no {name}; add it")
    group, metric, rule = (_text(table[name], name, where) for name in ("group", "metric", "rule"))
    require_group(group, where)
    if metric not in metrics:
        raise DataError(_unknown(where, "metric", metric, metrics))
    if rule not in RULES:
        raise DataError(_unknown(where, "rule", rule, tuple(RULES)))
    against = _text(table.get("against", BASE), "against", where)
    if against not in (BASE, BASELINE):
        raise DataError(_unknown(where, "against", against, (BASE, BASELINE)))
    if rule not in COMPARING and "against" in table:
        raise DataError(f"{where}: {rule} is against nothing but its value; drop 'against'")
    value = _number(table["value"], metric, rule, where)
    return Limit(group=group, metric=metric, rule=rule, value=value, against=against)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} must be a non-empty string; write it in quotes")
    return value


def _number(value: Any, metric: str, rule: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: value must be a finite number; write one such as 0.05")
    if number < 0 and rule in COMPARING:
        raise DataError(f"{where}: {rule} needs a value of 0 or more; drop the sign")
    share = metric in METRICS and metric not in UNBOUNDED
    # Written in percent, a margin would allow everything, and nobody would notice.
    if share and not 0 <= number <= 1:
        raise DataError(
            f"{where}: {metric} lies between 0 and 1, and {number:g} does not; "
            "write a share, such as 0.05 for 5 %"
        )
    if share and rule == "improve_by" and number == 1:
        raise DataError(
            f"{where}: {metric} lies between 0 and 1, and nothing gets better by more than 1; "
            "write a smaller share"
        )
    return number


def _require_possible(limit: Limit, limits: Sequence[Limit], where: str) -> None:
    """Refuse two limits that no adapter could hold together."""
    if limit.rule != "at_least":
        return
    for other in limits:
        alike = (other.group, other.metric) == (limit.group, limit.metric)
        if alike and other.rule == "at_most" and other.value < limit.value:
            raise DataError(
                f"{where}: {limit.metric} of {escape(limit.group, 40)} is to be at least "
                f"{limit.value:g} and at most {other.value:g}; mend one of them"
            )


def _unknown(where: str, kind: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {escape(near[0], 60)}?" if near else "use one of them"
    names = ", ".join(escape(other, 60) for other in known)
    return f"{where}: unknown {kind} {escape(repr(name), 60)} (known: {names}); {hint}"
