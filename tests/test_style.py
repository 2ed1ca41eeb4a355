"""The words that docs/style.md rules out are not in messages, docstrings, comments or documents."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STYLE = ROOT / "docs" / "style.md"
EXCEPTIONS = {
    "is no": ("is no longer", "is no more", "is no less", "is no worse", "there is no", "is no-"),
    "are no": ("are no longer", "are no more", "are no less", "there are no"),
    "floor": ("floor(", "round", "floor of"),
}
"""Phrases in which a word of the list is good English, or a term of mathematics."""


def avoided() -> list[str]:
    table = STYLE.read_text(encoding="utf-8").partition("<!-- words -->")[2]
    rows = [
        line.split("|")[1]
        for line in table.partition("<!-- /words -->")[0].splitlines()
        if "|" in line
    ]
    return [word.strip() for row in rows[2:] for word in row.split(",")]


WORDS = re.compile(
    r"(?<![\w`-])("
    + "|".join(sorted(map(re.escape, avoided()), key=len, reverse=True))
    + r")(?![\w-])",
    re.I,
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield a file's texts by line: of Python its strings and comments, of others every line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for number, line in enumerate(token.string.splitlines()):
                yield token.start[0] + number, line


def faults(path: Path) -> list[str]:
    found = []
    for number, line in texts(path):
        for match in WORDS.finditer(line):
            word, around = (
                match[1].lower(),
                line[max(0, match.start() - 12) : match.end() + 12].lower(),
            )
            if not any(fine in around for fine in EXCEPTIONS.get(word, ())):
                found.append(f"{path.relative_to(ROOT)}:{number}: {word!r}: {line.strip()}")
    return found


def files() -> list[Path]:
    package = ROOT / "phi3_lora_qa"
    code = [path for path in package.rglob("*") if path.suffix in (".py", ".j2", ".js", ".css")]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "fixtures").glob("*.py")]
    skipped = {STYLE}
    return sorted({*code, *pages, *scripts} - skipped)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_avoided_word_is_in(path: Path) -> None:
    assert faults(path) == []


def test_an_avoided_word_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text('"""Mend it."""\nx = 1  # there is no x, and it is no y\n')
    assert len(faults(path)) == 2
