"""The project that pytest runs in, where an option's value made it take another one.

pytest looks for its root and its configuration before it knows the options of plugins, and takes
a value that stands apart, as in ``--phi3-adapter PATH``, for a path of tests
(https://github.com/pytest-dev/pytest/issues/1435). The folder of an adapter, or the project that
it lies in, would then say how it is judged, and the user's own configuration would say nothing.
"""

import copy
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.libraries import incompatible, part_of

_OURS = "--phi3-"


def settle_project(config: pytest.Config, args: list[str]) -> None:
    """Give pytest the root and the configuration that it has without the values of options.

    What the wrong configuration added is taken away (options, import paths), and what the right
    one asks for is added, as pytest does it.

    Args:
        config: While the first conftest.py files are still to be loaded.
        args: What pytest is still to read its options from; it is changed in place.

    Raises:
        InputError: The wrong configuration has already loaded plugins.
        IncompatibleLibraryError: This version of pytest keeps its configuration elsewhere.
    """
    # Where no option of ours is given, pytest is left alone.
    words = [*map(str, config.invocation_params.args), os.environ.get("PYTEST_ADDOPTS", "")]
    if not any(_OURS in word for word in words):
        return
    added, paths = config.getini("addopts"), config.getini("pythonpath")
    own = args[len(added) :]
    given = _parsed(config, own)
    root, file, values = _setup(config, given, given.override_ini)
    if file != config.inipath:
        _refuse_loaded_plugins(config, added)
        _exchange(config, file, values)
        _exchange_import_paths(paths, config.getini("pythonpath"))
        config.pluginmanager.consider_preparse(config.getini("addopts"))
        args[:] = [*config.getini("addopts"), *own]
        given = _parsed(config, args)
        _exchange(config, file, _setup(config, given, given.override_ini)[2])
    _set(config, "_rootpath", root)
    if given.confcutdir is None:
        given.confcutdir = str(settings_folder(config))
    config.known_args_namespace = given


def settings_folder(config: pytest.Config) -> Path:
    """Return the folder of pytest's configuration, in which our own is looked for."""
    return config.inipath.parent if config.inipath else config.rootpath


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


def _refuse_loaded_plugins(config: pytest.Config, added: list[str]) -> None:
    """What was imported cannot be undone."""
    names = [
        (then if word == "-p" else word[2:]).strip()
        for word, then in pairwise([*added, ""])
        if word.startswith("-p")
    ]
    if any(not name.startswith("no:") for name in names):
        raise InputError(
            f"pytest took its configuration from {escape(str(config.inipath), 200)}, as the value "
            "of an option looks like a path of tests to it, and loaded plugins that are named "
            "there; write the option and its value as one word, such as --phi3-adapter=PATH"
        )


def _exchange(config: pytest.Config, file: Path | None, values: Any) -> None:
    _set(config, "_inipath", file)
    # pytest 9.0 has the values under a public name, later versions have a property there.
    _set(config, "_inicfg" if hasattr(config, "_inicfg") else "inicfg", values)
    config._inicache.clear()


def _exchange_import_paths(wrong: list[Path], right: list[Path]) -> None:
    for path in map(str, wrong):
        if path in sys.path:
            sys.path.remove(path)
    sys.path[:0] = map(str, right)


def _set(config: pytest.Config, name: str, value: object) -> None:
    if not hasattr(config, name):
        raise incompatible("pytest", f"keeps no {name} in its Config")
    setattr(config, name, value)
