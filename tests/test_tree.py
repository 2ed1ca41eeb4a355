"""The source tree: unique names, small modules, nothing repeated, tests that mirror it."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

import phi3_lora_qa

PACKAGE = Path(phi3_lora_qa.__file__).parent
TESTS = Path(__file__).parent
MOST_LINES, MEDIAN_LINES, MOST_FUNCTION_LINES = 400, 140, 60
RUN = 6
"""Lines of code in a row that must not be repeated."""
REPEATED_ON_PURPOSE: Mapping[frozenset[str], str] = {}
"""Pairs of modules that share a run of lines, each with the reason."""
NO_UNIT_TEST = {
    "__main__.py": "the console script, which tests/cli runs",
}
"""Modules without a test file of their own, each with the place that tests them."""
SCENARIOS = ("attack", "cuda", "fixtures", "scenarios")
"""Folders of tests that belong to no single module."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    """Return every ``phi3_lora_qa`` module that a module imports, at any level of nesting."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def strangely_named() -> Iterator[str]:
    """Yield pairs of modules with the same file name of which neither imports the other."""
    by_name = defaultdict(list)
    for path in modules():
        if path.name != "__init__.py":
            by_name[path.name].append(path)
    for paths in by_name.values():
        for one, other in combinations(paths, 2):
            if dotted(one) not in imported(other) and dotted(other) not in imported(one):
                yield f"{name_of(one)} and {name_of(other)}"


def test_two_files_with_the_same_name_are_a_pair() -> None:
    assert list(strangely_named()) == []


def test_modules_are_small() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
    assert median(lengths.values()) <= MEDIAN_LINES


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{name_of(path)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert long == []


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Return a module's lines of code: without docstrings, comments, imports and punctuation."""
    tree = tree_of(path)
    skipped = set()
    for node in ast.walk(tree):
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if isinstance(node, ast.stmt) and (is_import or _is_docstring(node)):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [
        (number, line.strip())
        for number, line in lines
        if number not in skipped and re.search(r"\w", line) and not line.lstrip().startswith("#")
    ]


def repeated_runs(paths: list[Path]) -> dict[frozenset[str], str]:
    """Return the pairs of modules that share a run of `RUN` equal lines of code, and where."""
    places = defaultdict(list)
    for path in paths:
        lines = code_lines(path)
        for start in range(len(lines) - RUN + 1):
            run = tuple(text for _, text in lines[start : start + RUN])
            places[run].append((path, lines[start][0]))
    found: dict[frozenset[str], str] = {}
    for occurrences in places.values():
        for (one, line), (other, place) in combinations(occurrences, 2):
            pair = frozenset((name_of(one), name_of(other)))
            found.setdefault(pair, f"{name_of(one)}:{line} and {name_of(other)}:{place}")
    return found


def test_no_six_lines_are_repeated() -> None:
    found = repeated_runs(modules())
    assert {pair: where for pair, where in found.items() if pair not in REPEATED_ON_PURPOSE} == {}


def test_a_repeated_run_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    text = "\n".join(f"x{number} = {number}" for number in range(RUN))
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(f'"""A module."""\n\n{text}\n')
    assert list(repeated_runs(modules())) == [frozenset(("one.py", "two.py"))]


def test_every_module_has_a_test_file() -> None:
    missing = [
        name_of(path)
        for path in modules()
        if path.name != "__init__.py"
        and name_of(path) not in NO_UNIT_TEST
        and not (TESTS / path.relative_to(PACKAGE).parent / f"test_{path.name}").exists()
    ]
    assert missing == []


def test_every_test_file_has_a_module() -> None:
    orphans = []
    for path in sorted(TESTS.rglob("test_*.py")):
        place = path.relative_to(TESTS)
        if len(place.parts) == 1 or set(place.parts) & set(SCENARIOS):
            continue
        module = PACKAGE / place.parent / path.name.removeprefix("test_")
        if not module.exists() and not (module.with_suffix("") / "__init__.py").exists():
            orphans.append(str(place))
    assert orphans == []


def test_nobody_imports_from_a_conftest() -> None:
    found = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if any(".conftest" in name for name in _modules_imported(path))
    ]
    assert found == []


def _modules_imported(path: Path) -> list[str]:
    return [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]
