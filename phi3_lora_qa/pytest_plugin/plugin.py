"""The pytest plugin's entry point: options, and the gate if an adapter is given.

Every pytest session imports this module once the package is installed. So it imports only the
standard library and the package's lightest modules. The gate's hooks are in
``phi3_lora_qa.pytest_plugin.gate_plugin``.
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
from phi3_lora_qa.extras import require_extra
from phi3_lora_qa.pytest_plugin import fixtures
from phi3_lora_qa.pytest_plugin.exit_status import ExitStatusGuard
from phi3_lora_qa.pytest_plugin.rootdir import restore_rootdir, settings_folder
from phi3_lora_qa.setting_specs import SPECS, SettingSpec, option
from phi3_lora_qa.settings import GateSettings, resolve

GATE_PLUGIN = "phi3-lora-qa-gate"
LAYERS_PLUGIN = "phi3-lora-qa-layers"

# Options that make pytest print about itself, and options that make it only list tests.
_INFORMS = ("help", "version", "markers")
_LISTS = ("collectonly", "showfixtures", "show_fixtures_per_test", "cacheshow")

_GUARD: pytest.StashKey[ExitStatusGuard] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add ``--phi3-*`` and the ini keys ``phi3_*``, and guard the exit status."""
    group = parser.getgroup("phi3-lora-qa", "LoRA adapter gate")
    for spec in SPECS:
        group.addoption(
            option(spec), dest=f"phi3_{spec.name}", help=spec.help, **_option_kind(spec)
        )
        parser.addini(f"phi3_{spec.name}", f"default of {option(spec)}", _ini_kind(spec), None)
    config: Any = pluginmanager.get_plugin("pytestconfig")
    config.stash[_GUARD] = ExitStatusGuard(config)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Read the settings before a conftest.py can change them."""
    settings = _read_early(early_config, args)
    if isinstance(settings, GateSettings) and settings.layers:
        from phi3_lora_qa.pytest_plugin.layer_session import register_profiles

        register_profiles()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures, and the gate only if an adapter is given."""
    config.pluginmanager.register(fixtures, "phi3-lora-qa-fixtures")
    guard = config.stash[_GUARD]
    if guard.settings is None:  # loaded by a conftest.py, and so after it
        _read_settings(config, config.option)
        _claim_reports(config)
    if isinstance(guard.settings, GateSettings) and guard.settings.adapter:
        from phi3_lora_qa.pytest_plugin.adapter_isolation import drop_configured_paths

        drop_configured_paths(config, guard.settings.adapter)
    end_if_refused(config)
    settings = guard.settings
    if guard.only_informs or not isinstance(settings, GateSettings):
        return
    try:
        if settings.layers:
            _test_layers(config, settings)
        if not settings.adapter:
            return
        from phi3_lora_qa.pytest_plugin.gate_plugin import GatePlugin

        guard.gate = GatePlugin.begin(
            config, settings, guard.reports, only_listed=guard.only_listed
        )
    except Phi3LoraQAError as error:
        _refuse(config, str(error))
    except (OSError, MemoryError) as error:
        if known := shortage(error) or path_trouble(error):
            _refuse(config, str(known))
        raise
    if config.pluginmanager.register(guard.gate, GATE_PLUGIN) is None:
        _refuse(config, f"-p no:{GATE_PLUGIN} would disable the gate; remove it")


def refuse_if_adapter_given(config: pytest.Config, args: list[str]) -> None:
    """Refuse a session in which an adapter is given and this plugin is disabled."""
    settings = _read_early(config, args)
    if isinstance(settings, GateSettings) and settings.adapter:
        _refuse_early(
            config,
            args,
            InputError(
                f"-p no:phi3_lora_qa disables the plugin, but an adapter is given by "
                f"{settings.sources['adapter']}; remove one of them"
            ),
        )


def end_if_refused(config: pytest.Config) -> None:
    """End the session with one line if it was refused."""
    guard = config.stash[_GUARD]
    if guard.only_informs:
        return
    if guard.refused:
        _refuse(config, guard.refused)
    if isinstance(guard.settings, Phi3LoraQAError):
        _refuse(config, str(guard.settings))


def _test_layers(config: pytest.Config, settings: GateSettings) -> None:
    """Add the property suite of the installed libraries to the session."""
    from phi3_lora_qa.pytest_plugin.layer_session import LayersPlugin

    layers = LayersPlugin(config, seed=settings.seed, only=settings.only)
    if layers.ids and settings.adapter:
        raise InputError(
            "phi3::layers was selected together with an adapter, and a gate runs all its checks; "
            "run the two in separate commands"
        )
    if config.pluginmanager.register(layers, LAYERS_PLUGIN) is None:
        raise InputError(f"-p no:{LAYERS_PLUGIN} would disable --phi3-layers; remove it")


def _refuse(config: pytest.Config, why: str) -> NoReturn:
    guard = config.stash[_GUARD]
    guard.refused = why
    if guard.reports:
        guard.reports.end(why)
    pytest.exit(why, returncode=BAD_INPUT)


def _claim_reports(config: pytest.Config) -> None:
    """Replace earlier reports at once, so that none of them passes for the report of this run.

    This is done even if other settings are invalid. If ids of checks were selected, the report to
    replace is known only later.
    """
    guard = config.stash[_GUARD]
    known = guard.known
    if known is None or not known.adapter or guard.only_listed or guard.only_informs:
        return
    # xdist starts its workers with -c; a test in a worker may start another pytest.
    if "PYTEST_XDIST_WORKER" in os.environ and sys.argv[:1] == ["-c"]:
        return
    from phi3_lora_qa.pytest_plugin.claim_reports import claim_early

    paths = config.known_args_namespace.file_or_dir or ()
    try:
        guard.reports = claim_early(known, config.invocation_params.dir, paths)
    except InputError as error:
        if isinstance(guard.settings, GateSettings):
            guard.settings = error


def _refuse_early(config: pytest.Config, args: list[str], error: Phi3LoraQAError) -> None:
    """End the run before its first test; no conftest.py is run, as it may be the adapter's."""
    guard = config.stash[_GUARD]
    guard.settings = error
    config.known_args_namespace.noconftest = True
    if not guard.only_informs:  # options of a conftest.py would be unknown: another error
        args[:] = []


def _read_early(config: pytest.Config, args: list[str]) -> GateSettings | Phi3LoraQAError:
    first = [config.inipath] if config.inipath else []
    guard = config.stash[_GUARD]
    unsupported = guard.watch()
    try:
        restore_rootdir(config, args)
        _read_settings(config, config.known_args_namespace, first)
        _claim_reports(config)
    except Phi3LoraQAError as error:
        guard.settings = error
    if unsupported and isinstance(guard.settings, GateSettings) and guard.settings.adapter:
        guard.settings = unsupported
    if isinstance(guard.settings, Phi3LoraQAError):
        _refuse_early(config, args, guard.settings)
    assert guard.settings is not None
    return guard.settings


def _read_settings(config: pytest.Config, given: Any, places: Sequence[Path] = ()) -> None:
    """Read the settings, and isolate the adapters' folders from pytest.

    Args:
        config: pytest's configuration.
        given: The values of its options, with those of plugins.
        places: Other files that pytest has read settings from.
    """
    guard = config.stash[_GUARD]
    guard.only_informs = any(getattr(given, name, False) for name in _INFORMS)
    guard.only_listed = any(getattr(given, name, False) for name in _LISTS)
    resolved = partial(
        resolve,
        options={s.name: getattr(given, f"phi3_{s.name}", None) for s in SPECS},
        environment=os.environ,
        ini={s.name: config.getini(f"phi3_{s.name}") for s in SPECS},
        directory=config.invocation_params.dir,
        ini_directory=settings_folder(config),
    )
    guard.known = None
    try:
        settings = guard.known = resolved()
        if settings.adapter:
            from phi3_lora_qa.pytest_plugin.adapter_isolation import isolate_adapters

            everywhere = (*places, *_places(config, given), config.rootpath)
            isolate_adapters(config, settings.adapter, everywhere, guard.block)
            require_extra("gate", "--phi3-adapter")
        if settings.layers:
            require_extra("gate", "--phi3-layers")
        guard.settings = settings
    except Phi3LoraQAError as error:
        guard.settings = error
        if guard.known is None:
            with suppress(Phi3LoraQAError):
                guard.known = resolved(forgiving=True)


def _places(config: pytest.Config, given: Any) -> list[Path]:
    """Return the places from which pytest reads options, configuration and tests."""
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
