"""The extras of pyproject.toml bring every module that the package imports, and no more."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import phi3_lora_qa
from phi3_lora_qa.errors import MissingDependencyError
from phi3_lora_qa.extras import EXTRAS, INCLUDED, missing_module, pip_command, require_extra

PACKAGE = Path(phi3_lora_qa.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
INDIRECT = {
    "huggingface_hub": "transformers", "regex": "transformers", "httpcore2": "httpx2",
    "markupsafe": "jinja2", "referencing": "jsonschema", "xdist": "",
}  # fmt: skip
"""Imported modules that another requirement brings; xdist is used only if pytest runs with it."""


def modules_of(requirements: list[str]) -> set[str]:
    """Return the modules that installed distributions bring themselves."""
    names = {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in requirements}
    return {
        module
        for module, distributions in metadata.packages_distributions().items()
        if {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} & names
    }


def imported() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], path.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0], path.name


def test_every_imported_module_is_required_or_in_an_extra() -> None:
    known = modules_of(PROJECT["dependencies"]) | {m for names in EXTRAS.values() for m in names}
    known |= set(INDIRECT) | set(sys.stdlib_module_names) | {"phi3_lora_qa"}
    assert {(module, file) for module, file in imported() if module not in known} == set()


@pytest.mark.parametrize("extra", ["tokenizer", "gate", "train", "loralib", "qlora"])
def test_an_extra_of_the_project_brings_the_modules_that_it_is_said_to(extra: str) -> None:
    requirements = PROJECT["optional-dependencies"][extra]
    included = [text for text in requirements if text.startswith("phi3-lora-qa[")]
    own = [text for text in requirements if text not in included]
    brought = {Requirement(text).name.replace("-", "_") for text in own}
    brought |= {module for module, by in INDIRECT.items() if by in brought}
    assert set(EXTRAS[extra]) == brought
    parts = {part for text in included for part in Requirement(text).extras}
    assert set(INCLUDED[extra]) == parts.union(*(INCLUDED[part] for part in parts))


def test_the_light_requirements_load_no_model() -> None:
    light = modules_of(PROJECT["dependencies"])
    assert {"numpy", "click", "jinja2"} <= light
    assert not light & {module for names in EXTRAS.values() for module in names}


def test_the_tests_have_everything() -> None:
    extras = PROJECT["optional-dependencies"]
    assert "phi3-lora-qa[all]" in extras["test"]
    assert Requirement(extras["all"][0]).extras == {"train", "loralib"}


def test_an_extra_that_is_there_is_not_missed() -> None:
    require_extra("gate", "the gate")
    require_extra("train", "training")
    require_extra("loralib", "the layers")


def test_a_missing_module_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "trl", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError) as caught:
        require_extra("train", "training")
    assert str(caught.value) == (
        "training needs packages that are not installed: torch, pandas, trl are missing; "
        'run: pip install "phi3-lora-qa[train]"'
    )


def test_a_failed_import_is_recognised_through_its_causes() -> None:
    outer = RuntimeError("cannot load")
    outer.__cause__ = ModuleNotFoundError("No module named 'peft.tuners'", name="peft.tuners")
    assert str(missing_module(outer)) == f"peft is not installed; run: {pip_command('gate')}"
    assert missing_module(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert missing_module(ValueError("peft")) is None
