"""The pytest plugin's door: options, and the gate when an adapter was given. Nothing heavy here.

This module is imported by every pytest session of everybody who installed the package, so it
imports the standard library and the ground floor only. What the gate does with pytest stands in
``phi3_lora_qa.pytest_gate``.
"""

import os
from typing import Any

import pytest

from phi3_lora_qa import pytest_fixtures
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.settings import SPECS, Spec, option, resolve

BAD_INPUT = 2
"""pytest's exit status when an option's value cannot be used."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--phi3-*`` and the ini keys ``phi3_*``."""
    group = parser.getgroup("phi3-lora-qa", "LoRA adapter gate")
    for spec in SPECS:
        group.addoption(
            option(spec), dest=f"phi3_{spec.name}", help=spec.help, **_option_kind(spec)
        )
        parser.addini(f"phi3_{spec.name}", f"default of {option(spec)}", _ini_kind(spec), None)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures; and the gate when, and only when, an adapter was given."""
    config.pluginmanager.register(pytest_fixtures, "phi3-lora-qa-fixtures")
    try:
        settings = resolve(
            options={s.name: config.getoption(f"phi3_{s.name}") for s in SPECS},
            environment=os.environ,
            ini={s.name: config.getini(f"phi3_{s.name}") for s in SPECS},
            directory=config.invocation_params.dir,
            ini_directory=config.inipath.parent if config.inipath else config.rootpath,
        )
        if not settings.adapter:
            return
        from phi3_lora_qa.pytest_gate import Gate

        config.pluginmanager.register(Gate.begin(config, settings), "phi3-lora-qa-gate")
    except InputError as error:
        pytest.exit(str(error), returncode=BAD_INPUT)


def _option_kind(spec: Spec) -> dict[str, Any]:
    if spec.kind == "flag":
        return {"action": "store_true", "default": None}
    kind: dict[str, Any] = {"default": None, "metavar": spec.metavar}
    if spec.repeated:
        kind["action"] = "append"
    if spec.kind == "number":
        kind["type"] = int
    return kind


def _ini_kind(spec: Spec) -> Any:
    if spec.kind == "flag":
        return "bool"
    return "args" if spec.repeated else "string"
