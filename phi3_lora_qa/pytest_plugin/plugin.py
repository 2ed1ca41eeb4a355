"""The pytest plugin's door: options, and the gate when an adapter was given. Nothing heavy here.

This module is imported by every pytest session of everybody who installed the package, so it
imports the standard library and the ground floor only. What the gate does with pytest stands in
``phi3_lora_qa.pytest_plugin.gate_session``.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from phi3_lora_qa.errors import InputError, Phi3LoraQAError, path_trouble, shortage
from phi3_lora_qa.exit_codes import BAD_INPUT
from phi3_lora_qa.pytest_plugin import fixtures
from phi3_lora_qa.pytest_plugin.exit_status import LastWord
from phi3_lora_qa.pytest_plugin.rootdir import settings_folder, settle_project
from phi3_lora_qa.setting_specs import SPECS, SettingSpec, option
from phi3_lora_qa.settings import GateSettings, resolve

GATE_PLUGIN = "phi3-lora-qa-gate"
LAYERS_PLUGIN = "phi3-lora-qa-layers"

# What pytest is asked to tell about itself, and what it lists without running it.
_INFORMS = ("help", "version", "markers")
_LISTS = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")

_WORD: pytest.StashKey[LastWord] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add ``--phi3-*`` and the ini keys ``phi3_*``, and take the last word on the exit status."""
    group = parser.getgroup("phi3-lora-qa", "LoRA adapter gate")
    for spec in SPECS:
        group.addoption(
            option(spec), dest=f"phi3_{spec.name}", help=spec.help, **_option_kind(spec)
        )
        parser.addini(f"phi3_{spec.name}", f"default of {option(spec)}", _ini_kind(spec), None)
    config: Any = pluginmanager.get_plugin("pytestconfig")
    config.stash[_WORD] = LastWord(config)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Take the settings down before a conftest.py could change them, and watch the exit status."""
    settings = _ask_early(early_config, args)
    if isinstance(settings, GateSettings) and settings.layers:
        from phi3_lora_qa.pytest_plugin.layer_session import register_profiles

        register_profiles()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures; and the gate when, and only when, an adapter was given."""
    config.pluginmanager.register(fixtures, "phi3-lora-qa-fixtures")
    word = config.stash[_WORD]
    if word.settings is None:  # named in a conftest.py, and so loaded after it
        _ask(config, config.option)
        _claim_reports(config)
    if isinstance(word.settings, GateSettings) and word.settings.adapter:
        from phi3_lora_qa.pytest_plugin.adapter_isolation import leave_out

        leave_out(config, word.settings.adapter)
    end_if_refused(config)
    settings = word.settings
    if word.informs or not isinstance(settings, GateSettings):
        return
    try:
        if settings.layers:
            _test_layers(config, settings)
        if not settings.adapter:
            return
        from phi3_lora_qa.pytest_plugin.gate_session import Gate

        word.gate = Gate.begin(config, settings, word.reports, only_listed=word.only_listed)
    except Phi3LoraQAError as error:
        _refuse(config, str(error))
    except (OSError, MemoryError) as error:
        if known := shortage(error) or path_trouble(error):
            _refuse(config, str(known))
        raise
    if config.pluginmanager.register(word.gate, GATE_PLUGIN) is None:
        _refuse(config, f"-p no:{GATE_PLUGIN} would switch the gate off; leave it out")


def refuse_if_asked(config: pytest.Config, args: list[str]) -> None:
    """Refuse a session in which an adapter is asked for, and this plugin is switched off."""
    settings = _ask_early(config, args)
    if isinstance(settings, GateSettings) and settings.adapter:
        _refuse_early(
            config,
            args,
            InputError(
                f"an adapter is to be gated ({settings.sources['adapter']}), but the plugin is "
                "switched off by -p no:phi3_lora_qa; leave out one of them"
            ),
        )


def end_if_refused(config: pytest.Config) -> None:
    """End the session with one line if what was asked for cannot be done."""
    word = config.stash[_WORD]
    if word.informs:
        return
    if word.refused:
        _refuse(config, word.refused)
    if isinstance(word.settings, Phi3LoraQAError):
        _refuse(config, str(word.settings))


def _test_layers(config: pytest.Config, settings: GateSettings) -> None:
    """Add the property suite of the installed libraries to the session."""
    from phi3_lora_qa.pytest_plugin.layer_session import Layers

    layers = Layers(config, seed=settings.seed, only=settings.only)
    if layers.ids and settings.adapter:
        raise InputError(
            "an id of phi3::layers was given together with an adapter, which is gated whole; "
            "run them one after the other"
        )
    if config.pluginmanager.register(layers, LAYERS_PLUGIN) is None:
        raise InputError(f"-p no:{LAYERS_PLUGIN} would switch --phi3-layers off; leave it out")


def _refuse(config: pytest.Config, why: str) -> NoReturn:
    word = config.stash[_WORD]
    word.refused = why
    if word.reports:
        word.reports.end(why)
    pytest.exit(why, returncode=BAD_INPUT)


def _claim_reports(config: pytest.Config) -> None:
    """Replace earlier reports at once: whatever ends this run, they do not stand for it.

    The settings may be wrong in something else than where reports go. Where ids were chosen, which
    report is to be replaced is known only later.
    """
    word = config.stash[_WORD]
    known = word.known
    if known is None or not known.adapter or word.only_listed or word.informs:
        return
    # A process of xdist's own is started with -c; a test may start another pytest in it.
    if "PYTEST_XDIST_WORKER" in os.environ and sys.argv[:1] == ["-c"]:
        return
    from phi3_lora_qa.pytest_plugin.report_target import claim_early

    given = config.known_args_namespace.file_or_dir or ()
    try:
        word.reports = claim_early(known, config.invocation_params.dir, given)
    except InputError as error:
        if isinstance(word.settings, GateSettings):
            word.settings = error


def _refuse_early(config: pytest.Config, args: list[str], error: Phi3LoraQAError) -> None:
    """The run ends before its first test: a conftest.py, perhaps the adapter's, is not run."""
    word = config.stash[_WORD]
    word.settings = error
    config.known_args_namespace.noconftest = True
    if not word.informs:  # without a conftest.py its options would be unknown: another error
        args[:] = []


def _ask_early(config: pytest.Config, args: list[str]) -> GateSettings | Phi3LoraQAError:
    first = [config.inipath] if config.inipath else []
    word = config.stash[_WORD]
    # What is pushed first is called last, and hears how the other cleanups ended.
    config._cleanup_stack.push(word.leave)
    try:
        settle_project(config, args)
        _ask(config, config.known_args_namespace, first)
        _claim_reports(config)
    except Phi3LoraQAError as error:
        word.settings = error
    if isinstance(word.settings, Phi3LoraQAError):
        _refuse_early(config, args, word.settings)
    assert word.settings is not None
    return word.settings


def _ask(config: pytest.Config, given: Any, places: Sequence[Path] = ()) -> None:
    """Read the settings, and keep the adapters' folders apart.

    Args:
        config: pytest's.
        given: Its options, with those of plugins.
        places: Further files that pytest has taken settings from.
    """
    word = config.stash[_WORD]
    word.informs = any(getattr(given, name, False) for name in _INFORMS)
    word.only_listed = any(getattr(given, name, False) for name in _LISTS)
    resolved = partial(
        resolve,
        options={s.name: getattr(given, f"phi3_{s.name}", None) for s in SPECS},
        environment=os.environ,
        ini={s.name: config.getini(f"phi3_{s.name}") for s in SPECS},
        directory=config.invocation_params.dir,
        ini_directory=settings_folder(config),
    )
    word.known = None
    try:
        settings = word.known = resolved()
        if settings.adapter:
            from phi3_lora_qa.pytest_plugin.adapter_isolation import keep_apart

            everywhere = (*places, *_places(config, given), config.rootpath)
            keep_apart(config, settings.adapter, everywhere, word.block)
        word.settings = settings
    except Phi3LoraQAError as error:
        word.settings = error
        if word.known is None:
            with suppress(Phi3LoraQAError):
                word.known = resolved(forgiving=True)


def _places(config: pytest.Config, given: Any) -> list[Path]:
    """Return where pytest takes options, configuration, conftest.py files and tests from."""
    here = config.invocation_params.dir
    words = [str(word) for word in config.invocation_params.args]
    files = [here / word[1:] for word in words if word.startswith("@")]
    paths = [here / str(arg).partition("::")[0] for arg in given.file_or_dir or ()]
    return [here, *([config.inipath] if config.inipath else []), *files, *paths]


def _option_kind(spec: SettingSpec) -> dict[str, Any]:
    if spec.kind == "flag":
        return {"action": "store_true", "default": None}
    kind: dict[str, Any] = {"default": None, "metavar": spec.metavar}
    if spec.repeated:
        kind["action"] = "append"
    return kind


def _ini_kind(spec: SettingSpec) -> Any:
    if spec.kind == "flag":
        return "bool"
    return "args" if spec.repeated else "string"
