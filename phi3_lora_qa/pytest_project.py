"""The project that pytest runs in, where an option's value made it take another one.

pytest looks for its root and its configuration before it knows the options of plugins, and takes
a value that stands apart, as in ``--phi3-adapter PATH``, for a path of tests
(https://github.com/pytest-dev/pytest/issues/1435). The folder of an adapter, or the project that
it lies in, would then say how it is judged, and the user's own configuration would say nothing.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape

_OURS = "--phi3-"


def settle_project(config: pytest.Config, given: Any) -> None:
    """Give pytest the root and the configuration that it has without the values of options.

    Args:
        config: While the first conftest.py files are still to be loaded.
        given: Its options, with those of plugins.

    Raises:
        InputError: What was already done of the wrong configuration cannot be undone.
    """
    # Where no option of ours is given, pytest is left alone.
    words = [*map(str, config.invocation_params.args), os.environ.get("PYTEST_ADDOPTS", "")]
    if not any(_OURS in word for word in words):
        return
    from _pytest.config.findpaths import determine_setup

    root, file, values, _ = determine_setup(
        inifile=given.inifilename,
        override_ini=given.override_ini,
        args=given.file_or_dir or [],
        rootdir_cmd_arg=given.rootdir or None,
        invocation_dir=config.invocation_params.dir,
    )
    taken, cut = config.inipath, str(settings_folder(config))
    if file != taken:
        added = config.getini("addopts")
        config._inipath, config._inicfg = file, values
        config._inicache.clear()
        lost = config.getini("addopts") or config.getini("pythonpath")
        if lost or any(_OURS in word for word in added):
            raise InputError(
                f"pytest took its configuration from {escape(str(taken or 'nowhere'), 200)}, as "
                "the value of an option looks like a path of tests to it; write the option and "
                "its value as one word, such as --phi3-adapter=PATH"
            )
    config._rootpath = root
    if given.confcutdir == cut:
        given.confcutdir = str(settings_folder(config))


def settings_folder(config: pytest.Config) -> Path:
    """Return the folder of pytest's configuration, in which our own is looked for."""
    return config.inipath.parent if config.inipath else config.rootpath
