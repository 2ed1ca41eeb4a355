"""No import cycles: neither at load time, nor through TYPE_CHECKING or imports inside functions."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import phi3_lora_qa

PACKAGE = Path(phi3_lora_qa.__file__).parent


def import_graph(package: Path) -> dict[str, set[str]]:
    """Return the modules of a package, and which of them each one imports anywhere in its text."""
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }
    graph = {}
    for name, path in paths.items():
        used = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    used.add(submodule if submodule in paths else node.module)
        graph[name] = (used & set(paths)) - {name}
    return graph


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one import cycle, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_there_is_no_import_cycle() -> None:
    assert cycle(import_graph(PACKAGE)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from demo import one",
        "if TYPE_CHECKING:\n    from demo.one import f",
        "def g():\n    from demo.one import f",
        "import demo.one",
    ],
)
def test_a_cycle_would_be_found(statement: str, tmp_path: Path) -> None:
    package = tmp_path / "demo"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from demo import two\n")
    (package / "two.py").write_text(f"{statement}\n")
    assert set(cycle(import_graph(package))) == {"demo.one", "demo.two"}
