"""Restores pytest's root and configuration if the value of an option changed them.

pytest determines its root and its configuration before it knows the options of plugins, and takes a
value that is a separate word, as in ``--phi3-adapter PATH``, for a test path
(https://github.com/pytest-dev/pytest/issues/1435). Then the configuration in the adapter's folder,
or in the project around it, would apply instead of the user's own.
"""

import copy
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.libraries import incompatible, part_of
from phi3_lora_qa.setting_specs import SPECS
from phi3_lora_qa.settings import is_inside


def restore_rootdir(config: pytest.Config, args: list[str]) -> None:
    """Set the root and the configuration that pytest has without the values of options.

    The options and import paths of the wrong configuration are removed, and those of the right one
    are added, as pytest does it.

    Args:
        config: pytest's configuration, before the first conftest.py files are loaded.
        args: The arguments from which pytest will read its options; changed in place.

    Raises:
        InputError: The wrong configuration has already loaded or blocked plugins.
        IncompatibleLibraryError: This version of pytest stores its configuration differently.
    """
    try:
        _restore(config, args)
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        fault = f"reads its configuration differently ({type(error).__name__}: {error})"
        raise incompatible("pytest", escape(fault)) from error


def settings_folder(config: pytest.Config) -> Path:
    """Return the folder of pytest's configuration, where our own is looked for."""
    return config.inipath.parent if config.inipath else config.rootpath


def _restore(config: pytest.Config, args: list[str]) -> None:
    # Without any of our options, no private part of pytest is used.
    if not _has_ours(config.known_args_namespace):
        return
    # The configuration does not record how many words it added, and they may change it
    # ("-o addopts=").
    added, typed = _split_added(config, args)
    given = _parse(config, typed)
    if not _has_ours(given):
        return
    root, file, values = _determine_setup(config, given, given.override_ini)
    _set(config, "_rootpath", root)
    if file != config.inipath:
        _remove_configuration(config, added)
        _add_configuration(config, file, values)
        config.pluginmanager.consider_preparse(config.getini("addopts"))
        args[:] = [*config.getini("addopts"), *typed]
        config.known_args_namespace = _parse(config, args)
        overrides = config.known_args_namespace.override_ini
        _replace_values(config, file, _determine_setup(config, given, overrides)[2])
        config._checkversion()
        config._validate_plugins()
    if _parse(config, args).confcutdir is None:
        config.known_args_namespace.confcutdir = str(settings_folder(config))


def _has_ours(given: Any) -> bool:
    return any(getattr(given, f"phi3_{spec.name}", None) is not None for spec in SPECS)


def _split_added(config: pytest.Config, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that a configuration added, and those from the user and the environment.

    In a worker of xdist nothing was added, and the environment is not used.
    """
    words = [str(word) for word in config.invocation_params.args]
    # Another plugin may have appended some; a configuration prepends its own.
    starts = range(len(args) - len(words), -1, -1)
    start = next((at for at in starts if list(args[at : at + len(words)]) == words), -1)
    if start < 0:
        raise ValueError("the arguments are in a different order")
    environment = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    before = start - len(environment)
    if before >= 0 and args[before:start] == environment:
        start = before
    return list(args[:start]), list(args[start:])


def _parse(config: pytest.Config, args: list[str]) -> Any:
    return config._parser.parse_known_args(args, namespace=copy.copy(config.option))


def _determine_setup(
    config: pytest.Config, given: Any, overrides: Any
) -> tuple[Path, Path | None, Any]:
    determine_setup = part_of("pytest", "_pytest.config.findpaths", "determine_setup")
    root, file, values, _ = determine_setup(
        inifile=given.inifilename,
        override_ini=overrides,
        args=given.file_or_dir or [],
        rootdir_cmd_arg=given.rootdir or None,
        invocation_dir=config.invocation_params.dir,
    )
    return root, file, values


def _remove_configuration(config: pytest.Config, added: Sequence[str]) -> None:
    """Remove the wrong import paths; imports and blocked plugins cannot be undone."""
    wrong = [str(path) for path in config.getini("pythonpath")]
    for path in wrong:
        if path in sys.path:
            sys.path.remove(path)
    removed = [Path(path) for path in wrong if path not in sys.path]
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    ran = any(is_inside(removed, Path(file)) for file in files if file) if removed else False
    if ran or any(word.startswith("-p") for word in added):
        raise InputError(
            f"pytest read the wrong configuration, {escape(str(config.inipath), 200)}, because it "
            "took an option's value for a test path, and loaded or blocked the plugins named "
            "there; write the option and its value as one word, such as --phi3-adapter=PATH"
        )


def _add_configuration(config: pytest.Config, file: Path | None, values: Any) -> None:
    _replace_values(config, file, values)
    config._parser.extra_info |= {"rootdir": str(config.rootpath), "inifile": str(file)}
    sys.path[:0] = [str(path) for path in config.getini("pythonpath")]


def _replace_values(config: pytest.Config, file: Path | None, values: Any) -> None:
    # pytest 9.0 has the values under a public name; later versions have a property there.
    _set(config, "_inicfg" if hasattr(config, "_inicfg") else "inicfg", values)
    _set(config, "_inipath", file)
    config._inicache.clear()


def _set(config: pytest.Config, name: str, value: object) -> None:
    getattr(config, name)  # an attribute that does not exist yet is not read by pytest
    setattr(config, name, value)
