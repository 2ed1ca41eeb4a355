"""The public names: the reference lists what the packages export; the rest is internal."""

import importlib
import re
from pathlib import Path

import pytest

import phi3_lora_qa

PACKAGE = Path(phi3_lora_qa.__file__).parent
REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"
INTERNAL = "Internal:"


def documented() -> dict[str, set[str]]:
    """Return the names that the reference lists, by public package."""
    section = REFERENCE.read_text(encoding="utf-8").partition("## Python API")[2]
    rows = re.findall(r"(?m)^\| `(phi3_lora_qa[\w.]*)` \|[^|]*\| (.*) \|$", section)
    return {package: set(re.findall(r"`(\w+)`", names)) for package, names in rows}


def packages() -> list[str]:
    """Return every package below the root, the root included."""
    folders = [path.parent for path in PACKAGE.rglob("__init__.py")]
    return sorted(".".join(path.relative_to(PACKAGE.parent).parts) for path in folders)


@pytest.mark.parametrize("package", packages())
def test_a_package_is_documented_or_says_that_it_is_internal(package: str) -> None:
    module = importlib.import_module(package)
    if package in documented():
        assert set(module.__all__) - {"__version__"} == documented()[package]
        assert not str(module.__doc__).startswith(INTERNAL)
    else:
        assert str(module.__doc__).startswith(INTERNAL), (
            f"{package} is neither documented nor internal"
        )
        assert not getattr(module, "__all__", ())


def test_every_documented_package_exists() -> None:
    assert set(documented()) <= set(packages())


def test_every_exported_name_can_be_imported() -> None:
    for package in documented():
        module = importlib.import_module(package)
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_the_root_offers_the_verbs_and_the_errors() -> None:
    assert {"train", "lint", "gate_adapter", "load_record", "Phi3LoraQAError"} <= set(
        phi3_lora_qa.__all__
    )
