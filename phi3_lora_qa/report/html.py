"""The page: a pure function of the record and its items, self-contained and safe to open.

There are three defences. The template environment escapes every expression and makes invisible
characters visible, so no template can forget it. Only numbers reach the plots. The page's content
security policy allows only the style and the script with the known hashes.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.record import ItemRow, RunRecord
from phi3_lora_qa.report.page import build_page, rows_of
from phi3_lora_qa.report.plots import INTERVAL_WIDTH
from phi3_lora_qa.report.safe_text import brief, duration, format_timestamp, number, plain, visible

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render_html(record: RunRecord, rows: Sequence[ItemRow]) -> str:
    """Render the page; the same record and items give the same bytes."""
    from markupsafe import Markup

    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=build_page(record, rows),
            css=Markup(style),  # files of this package, without any input
            js=Markup(script),
            csp=_policy(style, script),
            interval_width=INTERVAL_WIDTH,
        )
    )


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "brief": brief,
        "number": number,
        "duration": duration,
        "timestamp": format_timestamp,
        "plain": plain,
        "pairs": rows_of,
    }
    return environment


def _finalize(value: object) -> object:
    """Make invisible characters in a value visible; keep the package's own markup."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
