"""What the documentation says of the rules is what the rules say."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_pages_of_the_rules_are_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_rules.py"))
    pages: Callable[[], dict[str, str]] = made["pages"]
    written = {path.name: path.read_text() for path in (ROOT / "docs" / "rules").glob("*.md")}
    assert written == pages(), "run `make docs`"


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.stem)
def test_no_link_leads_nowhere(path: Path) -> None:
    import re

    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target
