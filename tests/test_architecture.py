"""ARCHITECTURE.md is true: its walk through the gate follows the imports, and its paths exist."""

import ast
import re
from pathlib import Path

import pytest

import phi3_lora_qa

PACKAGE = Path(phi3_lora_qa.__file__).parent
TEXT = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
WALK = re.findall(r"(?m)^\| \d+ \| `([\w/]+)` \| `([\w/]+)` \|", TEXT)
MOST_HAND_OVERS = 18


def path_of(module: str) -> Path:
    path = PACKAGE / f"{module}.py"
    return path if path.exists() else PACKAGE / module / "__init__.py"


def imports(path: Path) -> set[str]:
    """Return the modules that a module imports, with slashes, below the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name.removeprefix("phi3_lora_qa.").replace(".", "/") for name in names}
    return found


@pytest.mark.parametrize(("source", "target"), WALK)
def test_each_hand_over_of_the_walk_is_an_import(source: str, target: str) -> None:
    assert target in imports(path_of(source))
    assert path_of(target).exists()


def test_the_walk_is_connected_and_short() -> None:
    assert 10 <= len(WALK) <= MOST_HAND_OVERS
    reached = {WALK[0][0]}
    for source, target in WALK:
        assert source in reached, f"nothing before leads to {source}"
        reached.add(target)
    assert WALK[0][0] == "pytest_plugin/plugin"
    assert WALK[-1][1] == "report"


def test_no_module_hands_over_to_one_that_leads_back_to_it() -> None:
    for source, target in WALK:
        assert source not in imports(path_of(target)), f"{target} imports {source}"


def test_the_diagram_shows_the_modules_of_the_table() -> None:
    diagram = TEXT.partition("```mermaid")[2].partition("```")[0]
    shown = set(re.findall(r'\["([\w/*]+)"\]', diagram))
    listed = {name for pair in WALK for name in pair}
    assert shown - {"gate/checks/*"} == listed - {"gate/checks/quality"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT))))
def test_each_file_that_is_named_exists(name: str) -> None:
    root = PACKAGE.parent
    places = [PACKAGE / name, root / name, *PACKAGE.rglob(name)]
    assert any(place.exists() for place in places), name
