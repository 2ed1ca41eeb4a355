"""Packages import only from lower layers, and light modules import no heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phi3_lora_qa

PACKAGE = Path(phi3_lora_qa.__file__).parent
LAYERS = {
    # These import nothing of the package, and every module may import them.
    "errors": -2, "setting_specs": -2, "reading": -2, "close_match": -2, "progress": -2,
    "unicode_surrogates": -2, "exit_codes": -2, "dataclass_json": -2,
    # These import only the ones above.
    "extras": -1, "staged_output": -1, "strict_values": -1, "function_arguments": -1,
    "toml_file": -1,
    "settings": 0, "record": 0, "libraries": 0, "patterns": 0, "signals": 0,
    "atomic_write": 0, "lora_scaling": 0, "record_schema": 1, "record_warnings": 1,
    "adapter": 1, "lora": 1, "stats": 1, "data": 1,
    "metrics": 2, "strategies": 2,
    "models": 2,
    "lint_adapter": 3,
    "conversion": 3, "scoring": 3, "properties": 3,
    "loralib_interop": 4,
    "training": 5, "gate": 5, "report": 5,
    "pytest_plugin": 6, "run_gate": 6,
    "cli": 6, "__main__": 6,
    "__init__": 7,  # the public names, resolved on first use
}  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "evaluate", "pandas", "scipy")
LIGHT_IMPORTS = {
    "the package": "import phi3_lora_qa",
    "the plugin": "import phi3_lora_qa.pytest_plugin.plugin",
    "the commands": "import phi3_lora_qa.cli",
    "the linter": "import phi3_lora_qa.adapter.lint, phi3_lora_qa.cli.lint",
    "the gate's plan": "import phi3_lora_qa.pytest_plugin.gate_plugin",
}


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the package of each import from ``phi3_lora_qa``, local ones included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = (
                [f"{module}.{alias.name}" for alias in node.names]
                if module == "phi3_lora_qa"
                else [module]
            )
        else:
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "phi3_lora_qa" and len(parts) > 1 and parts[1] in LAYERS:
                yield node.lineno, parts[1]


def upward_imports(path: Path) -> list[str]:
    """Return the imports of a module that its layer does not allow, one line of text each."""
    own = package_of(path)
    return [
        f"{path.relative_to(PACKAGE)}:{line}: {own} imports {package}"
        for line, package in imported_packages(path)
        if (package != own and LAYERS[package] >= LAYERS[own] and LAYERS[own] < 6)
        or LAYERS[package] > LAYERS[own]
    ]


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in PACKAGE.rglob("*.py")} - {"bundled"} <= set(LAYERS)


def test_no_package_imports_from_a_higher_layer() -> None:
    assert [found for path in PACKAGE.rglob("*.py") for found in upward_imports(path)] == []


def test_an_upward_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "lora").mkdir()
    module = tmp_path / "lora" / "bad.py"
    module.write_text("def f():\n    from phi3_lora_qa.gate import plan\n")
    assert upward_imports(module) == ["lora/bad.py:2: lora imports gate"]


@pytest.mark.parametrize("statement", LIGHT_IMPORTS.values(), ids=LIGHT_IMPORTS.keys())
def test_no_heavy_library_is_imported_by(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
