"""The pytest plugin's door: options, and the gate when an adapter was given. Nothing heavy here.

This module is imported by every pytest session of everybody who installed the package, so it
imports the standard library and the ground floor only. What the gate does with pytest stands in
``phi3_lora_qa.pytest_gate``.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from phi3_lora_qa import pytest_fixtures
from phi3_lora_qa.errors import InputError, Phi3LoraQAError, path_trouble, shortage
from phi3_lora_qa.pytest_project import settings_folder, settle_project
from phi3_lora_qa.setting_specs import SPECS, Spec, option
from phi3_lora_qa.settings import GateSettings, refuse_within, resolve

if TYPE_CHECKING:
    from phi3_lora_qa.pytest_reports import Reports

BAD_INPUT = 2
"""pytest's exit status when an option's value cannot be used."""

GATE_PLUGIN = "phi3-lora-qa-gate"
_SEEMS_FINE = (
    pytest.ExitCode.OK,
    pytest.ExitCode.INTERRUPTED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--phi3-*`` and the ini keys ``phi3_*``."""
    group = parser.getgroup("phi3-lora-qa", "LoRA adapter gate")
    for spec in SPECS:
        group.addoption(
            option(spec), dest=f"phi3_{spec.name}", help=spec.help, **_option_kind(spec)
        )
        parser.addini(f"phi3_{spec.name}", f"default of {option(spec)}", _ini_kind(spec), None)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Take the settings down before a conftest.py could change them, and watch the exit status."""
    asked = _ask_early(early_config, args)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        asked = _claimed(early_config, asked)
    early_config.stash[_ASKED] = asked
    if isinstance(asked.settings, Phi3LoraQAError):
        # The run ends before its first test: a conftest.py, perhaps the adapter's, is not run.
        early_config.known_args_namespace.noconftest = True
    elif asked.settings.layers:
        from phi3_lora_qa.pytest_layers import register_profiles

        register_profiles()
    # The first cleanup that is registered is the last one that runs, after every plugin's hooks.
    early_config.add_cleanup(lambda: _keep_refusal(early_config))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures; and the gate when, and only when, an adapter was given."""
    config.pluginmanager.register(pytest_fixtures, "phi3-lora-qa-fixtures")
    if _ASKED not in config.stash:  # named in a conftest.py, and so loaded after it
        config.stash[_ASKED] = _ask(config, config.option)
    if _REPORTS not in config.stash and not hasattr(config, "workerinput"):
        config.stash[_ASKED] = _claimed(config, config.stash[_ASKED])
    asked = config.stash[_ASKED]
    try:
        if isinstance(asked.settings, Phi3LoraQAError):
            raise asked.settings
        if asked.settings.layers:
            _test_layers(config, asked.settings)
        if not asked.settings.adapter:
            return
        from phi3_lora_qa.pytest_gate import GATE, Gate

        reports = config.stash.get(_REPORTS, None)
        gate = Gate.begin(config, asked.settings, reports, only_listed=asked.only_listed)
    except Phi3LoraQAError as error:
        _refuse(config, str(error))
    except (OSError, MemoryError) as error:
        if known := shortage(error) or path_trouble(error):
            _refuse(config, str(known))
        raise
    config.stash[GATE] = gate
    if config.pluginmanager.register(gate, GATE_PLUGIN) is None:
        _refuse(config, f"-p no:{GATE_PLUGIN} would switch the gate off; leave it out")


def _test_layers(config: pytest.Config, settings: GateSettings) -> None:
    """Add the property suite of the installed libraries to the session."""
    from phi3_lora_qa.pytest_layers import Layers

    layers = Layers(config, seed=settings.seed, only=settings.only)
    if layers.ids and settings.adapter:
        raise InputError(
            "an id of phi3::layers was given together with an adapter, which is gated whole; "
            "run them one after the other"
        )
    config.pluginmanager.register(layers, "phi3-lora-qa-layers")


def _refuse(config: pytest.Config, why: str) -> NoReturn:
    config.stash[_REFUSED] = True
    if reports := config.stash.get(_REPORTS, None):
        reports.end(why)
    pytest.exit(why, returncode=BAD_INPUT)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the user asked for: the settings, or what is wrong with them."""

    settings: GateSettings | Phi3LoraQAError
    only_listed: bool
    known: GateSettings | None = None
    """What is known of the settings, where all that decides about reports is."""


_ASKED: pytest.StashKey[_Asked] = pytest.StashKey()
_REFUSED: pytest.StashKey[bool] = pytest.StashKey()
_REPORTS: "pytest.StashKey[Reports]" = pytest.StashKey()
_LISTINGS = (
    "collectonly", "help", "version", "markers", "cacheshow", "showfixtures",
    "show_fixtures_per_test",
)  # fmt: skip
"""Options of pytest that ask for lists and words, and for nothing to be run."""


def _claimed(config: pytest.Config, asked: _Asked) -> _Asked:
    """Replace earlier reports at once: whatever ends this run, they do not stand for it.

    The settings may be wrong in something else than where reports go. Where ids were chosen, which
    report is to be replaced is known only later.
    """
    known = asked.known
    given = config.known_args_namespace
    if known is None or not known.adapter or asked.only_listed:
        return asked
    from phi3_lora_qa.pytest_reports import claim_early

    try:
        reports = claim_early(known, config.invocation_params.dir, given.file_or_dir or ())
    except InputError as error:
        right = isinstance(asked.settings, GateSettings)
        return replace(asked, settings=error) if right else asked
    if reports:
        config.stash[_REPORTS] = reports
    return asked


def _ask_early(config: pytest.Config, args: list[str]) -> _Asked:
    first = [config.inipath] if config.inipath else []
    try:
        settle_project(config, args)
    except Phi3LoraQAError as error:
        return _Asked(settings=error, only_listed=False)
    return _ask(config, config.known_args_namespace, first)


def _ask(config: pytest.Config, given: Any, places: Sequence[Path] = ()) -> _Asked:
    """Read the settings.

    Args:
        config: pytest's.
        given: Its options, with those of plugins.
        places: Further files that pytest has taken settings from.
    """
    settings: GateSettings | Phi3LoraQAError
    resolved = partial(
        resolve,
        options={s.name: getattr(given, f"phi3_{s.name}", None) for s in SPECS},
        environment=os.environ,
        ini={s.name: config.getini(f"phi3_{s.name}") for s in SPECS},
        directory=config.invocation_params.dir,
        ini_directory=settings_folder(config),
    )
    known = None
    try:
        settings = known = resolved()
        for place in (*places, *_places(config, given), config.rootpath):
            refuse_within(settings.adapter, place, "settings and tests")
    except Phi3LoraQAError as error:
        settings = error
        if known is None:
            with suppress(Phi3LoraQAError):
                known = resolved(forgiving=True)
    only_listed = any(getattr(given, name, None) for name in _LISTINGS)
    return _Asked(settings=settings, only_listed=only_listed, known=known)


def _places(config: pytest.Config, given: Any) -> list[Path]:
    """Return where pytest takes configuration, conftest.py files and tests from."""
    here = config.invocation_params.dir
    paths = [here / str(arg).partition("::")[0] for arg in given.file_or_dir or ()]
    return [here, *([config.inipath] if config.inipath else []), *paths]


def _keep_refusal(config: pytest.Config) -> None:
    """Make the exit status true to the verdict, whatever another plugin made of it.

    A gate that was asked for and did not come to a verdict refuses, too.
    """
    asked = config.stash[_ASKED]
    session = config.pluginmanager.get_plugin("session")
    if session is None or hasattr(config, "workerinput"):
        return
    if config.stash.get(_REFUSED, False):
        session.exitstatus = BAD_INPUT
    elif isinstance(asked.settings, GateSettings) and asked.settings.adapter:
        from phi3_lora_qa.pytest_gate import GATE

        gate = config.stash.get(GATE, None)
        judged = asked.only_listed or (gate is not None and gate.accepted)
        if not judged and session.exitstatus in _SEEMS_FINE:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _option_kind(spec: Spec) -> dict[str, Any]:
    if spec.kind == "flag":
        return {"action": "store_true", "default": None}
    kind: dict[str, Any] = {"default": None, "metavar": spec.metavar}
    if spec.repeated:
        kind["action"] = "append"
    return kind


def _ini_kind(spec: Spec) -> Any:
    if spec.kind == "flag":
        return "bool"
    return "args" if spec.repeated else "string"
