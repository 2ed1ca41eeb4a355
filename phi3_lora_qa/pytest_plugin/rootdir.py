"""The project that pytest runs in, where an option's value made it take another one.

pytest looks for its root and its configuration before it knows the options of plugins, and takes
a value that stands apart, as in ``--phi3-adapter PATH``, for a path of tests
(https://github.com/pytest-dev/pytest/issues/1435). The folder of an adapter, or the project that
it lies in, would then say how it is judged, and the user's own configuration would say nothing.
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


def settle_project(config: pytest.Config, args: list[str]) -> None:
    """Give pytest the root and the configuration that it has without the values of options.

    What the wrong configuration added is taken away (options, import paths), and what the right
    one asks for is added, as pytest does it.

    Args:
        config: While the first conftest.py files are still to be loaded.
        args: What pytest is still to read its options from; it is changed in place.

    Raises:
        InputError: The wrong configuration has already loaded, or blocked, what it names.
        IncompatibleLibraryError: This version of pytest keeps its configuration elsewhere.
    """
    try:
        _settle(config, args)
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        fault = f"reads its configuration in another way ({type(error).__name__}: {error})"
        raise incompatible("pytest", escape(fault)) from error


def settings_folder(config: pytest.Config) -> Path:
    """Return the folder of pytest's configuration, in which our own is looked for."""
    return config.inipath.parent if config.inipath else config.rootpath


def _settle(config: pytest.Config, args: list[str]) -> None:
    # Where no option of ours is given, pytest is left alone, and nothing of it is asked for.
    if not _has_ours(config.known_args_namespace):
        return
    # How many words were added, the configuration cannot tell: they may change it ("-o addopts=").
    added, typed = _parted(config, args)
    given = _parsed(config, typed)
    if not _has_ours(given):
        return
    root, file, values = _setup(config, given, given.override_ini)
    _set(config, "_rootpath", root)
    if file != config.inipath:
        _leave(config, added)
        _enter(config, file, values)
        config.pluginmanager.consider_preparse(config.getini("addopts"))
        args[:] = [*config.getini("addopts"), *typed]
        config.known_args_namespace = _parsed(config, args)
        overridden = _setup(config, given, config.known_args_namespace.override_ini)[2]
        _exchange(config, file, overridden)
        config._checkversion()
        config._validate_plugins()
    if _parsed(config, args).confcutdir is None:
        config.known_args_namespace.confcutdir = str(settings_folder(config))


def _has_ours(given: Any) -> bool:
    return any(getattr(given, f"phi3_{spec.name}", None) is not None for spec in SPECS)


def _parted(config: pytest.Config, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what a configuration put in front, and what the user typed or has in the environment.

    In a worker of xdist nothing was put in front, and what is in the environment does not count.
    """
    words = [str(word) for word in config.invocation_params.args]
    # Another plugin may have added some behind; a configuration puts its own in front.
    starts = range(len(args) - len(words), -1, -1)
    start = next((at for at in starts if list(args[at : at + len(words)]) == words), -1)
    if start < 0:
        raise ValueError("arguments are in another order")
    environment = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    before = start - len(environment)
    if before >= 0 and args[before:start] == environment:
        start = before
    return list(args[:start]), list(args[start:])


def _parsed(config: pytest.Config, args: list[str]) -> Any:
    return config._parser.parse_known_args(args, namespace=copy.copy(config.option))


def _setup(config: pytest.Config, given: Any, overrides: Any) -> tuple[Path, Path | None, Any]:
    determine_setup = part_of("pytest", "_pytest.config.findpaths", "determine_setup")
    root, file, values, _ = determine_setup(
        inifile=given.inifilename,
        override_ini=overrides,
        args=given.file_or_dir or [],
        rootdir_cmd_arg=given.rootdir or None,
        invocation_dir=config.invocation_params.dir,
    )
    return root, file, values


def _leave(config: pytest.Config, added: Sequence[str]) -> None:
    """Take the wrong import paths away; what was imported or blocked cannot be undone."""
    wrong = [str(path) for path in config.getini("pythonpath")]
    for path in wrong:
        if path in sys.path:
            sys.path.remove(path)
    theirs = [Path(path) for path in wrong if path not in sys.path]
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    ran = any(is_inside(theirs, Path(file)) for file in files if file) if theirs else False
    if ran or any(word.startswith("-p") for word in added):
        raise InputError(
            f"pytest took its configuration from {escape(str(config.inipath), 200)}, as the value "
            "of an option looks like a path of tests to it, and loaded or blocked plugins as it "
            "says there; write the option and its value as one word, such as --phi3-adapter=PATH"
        )


def _enter(config: pytest.Config, file: Path | None, values: Any) -> None:
    _exchange(config, file, values)
    config._parser.extra_info |= {"rootdir": str(config.rootpath), "inifile": str(file)}
    sys.path[:0] = [str(path) for path in config.getini("pythonpath")]


def _exchange(config: pytest.Config, file: Path | None, values: Any) -> None:
    # pytest 9.0 has the values under a public name, later versions have a property there.
    _set(config, "_inicfg" if hasattr(config, "_inicfg") else "inicfg", values)
    _set(config, "_inipath", file)
    config._inicache.clear()


def _set(config: pytest.Config, name: str, value: object) -> None:
    getattr(config, name)  # what is not there yet, nobody would read
    setattr(config, name, value)
