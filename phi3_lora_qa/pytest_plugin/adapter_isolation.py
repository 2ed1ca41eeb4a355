"""An adapter's folder is kept apart from pytest: nothing in it is imported, collected or obeyed.

Which files pytest will load is not foretold. What loads them is asked: pytest's one way to import
a ``conftest.py``, its one way to open a collector, and Python's finders of modules. What would
have to be obeyed, or was imported before anybody was asked, ends the run.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.settings import is_inside, real, reject_if_inside

_PLUGIN = "phi3-lora-qa-apart"


def keep_apart(
    config: pytest.Config,
    adapters: Sequence[Path],
    places: Sequence[Path],
    blocked: Callable[[str], None],
) -> None:
    """Keep pytest, and Python's imports, out of the adapters' folders until the session ends.

    Args:
        config: pytest's.
        adapters: The folders.
        places: Where pytest takes configuration and tests from.
        blocked: Called with what is wrong when a module's import is refused.

    Raises:
        InputError: Something there is obeyed, or was imported, already.
        IncompatibleLibraryError: This version of pytest loads a conftest.py in another way.
    """
    # Taken away first: to refuse the run, and to say so in a report, takes imports of our own.
    theirs = [entry for entry in map(str, sys.path) if is_inside(adapters, Path(entry))]
    sys.path[:] = [entry for entry in sys.path if str(entry) not in theirs]
    for place in places:
        reject_if_inside(adapters, place, "settings and tests")
    for entry in theirs:
        reject_if_inside(
            adapters, Path(entry), "modules on Python's import path", "take that entry out of it"
        )
    for adapter in adapters:
        _require_no_package(adapter, config.invocation_params.dir)
    apart = _Apart(adapters, blocked)
    for module in [one for one in sys.modules.values() if isinstance(one, ModuleType)]:
        known = vars(module)  # to ask a module itself may import another one
        for file in (getattr(known.get("__spec__"), "origin", None), known.get("__file__")):
            if apart.holds(file):
                reject_if_inside(adapters, Path(str(file)), "modules already imported")
    if config.pluginmanager.register(apart, _PLUGIN) is None:
        raise InputError(f"-p no:{_PLUGIN} would let an adapter's files in; leave it out")
    part_of("pytest", "_pytest.config", "PytestPluginManager._importconftest")
    manager: Any = config.pluginmanager
    manager._importconftest = apart.without_conftest(manager._importconftest)
    sys.meta_path.insert(0, apart)
    config.add_cleanup(apart.leave)


def _require_no_package(adapter: Path, here: Path) -> None:
    """Refuse a folder that is itself a module, or an installed package, to a Python started here.

    xdist's processes, and ``python -m pytest``, import from where they are started before any
    plugin is asked.
    """
    if "__pycache__" in real(adapter).parts:
        raise InputError(
            f"the adapter's folder {escape(str(adapter), 200)} lies where Python keeps compiled "
            "modules, and reads them from; move it"
        )
    around = [real(Path(entry)) for entry in (str(here), *sys.path)]
    for folder in (adapter.absolute(), real(adapter)):
        if real(folder.parent) in around and _is_package(folder):
            raise InputError(
                f"the adapter's folder {escape(str(folder), 200)} is a Python package by its name, "
                "and lies where Python imports from; move it, or run from another folder"
            )


def _is_package(folder: Path) -> bool:
    if folder.name.endswith((".dist-info", ".egg-info", ".egg")):
        return True
    try:
        names = os.listdir(folder)  # noqa: PTH208  the names alone are asked for
    except OSError:
        return False  # what is wrong with it is said when it is opened
    return folder.name.isidentifier() and any(name.startswith("__init__.") for name in names)


def leave_out(config: pytest.Config, adapters: Sequence[Path]) -> None:
    """Take the adapters' folders out of the paths that a configuration, and not a person, names.

    The name of a module there is looked for, so that it is refused before a gate begins.
    """
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        here = config.invocation_params.dir
        config.args = [arg for arg in config.args if not is_inside(adapters, here / arg)]
    if config.option.pyargs:
        for name in config.args:
            with contextlib.suppress(ImportError, AttributeError, ValueError):
                importlib.util.find_spec(name.partition("::")[0])


class _Apart:
    """Stands before Python's finders of modules, and between pytest and what it collects."""

    def __init__(self, adapters: Sequence[Path], blocked: Callable[[str], None]) -> None:
        self._adapters, self._blocked = tuple(adapters), blocked
        self._inside = cache(lambda folder: is_inside(self._adapters, Path(folder)))

    def holds(self, file: object) -> bool:
        """Whether a file lies in an adapter's folder, whatever links lead there."""
        if not isinstance(file, str) or file in ("built-in", "frozen"):
            return False
        try:
            return self._inside(os.path.dirname(os.path.realpath(file)))  # noqa: PTH120  for speed
        except ValueError:  # a NUL
            return False

    def leave(self) -> None:
        """Let Python's finders be as they were."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    # Python's imports

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, unless that lies in an adapter's folder."""
        at = sys.meta_path.index(self) if self in sys.meta_path else -1
        for finder in sys.meta_path[at + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is None:
                continue
            if self.holds(spec.origin):
                why = (
                    f"the module {escape(name, 80)} lies in an adapter's own folder "
                    f"({escape(str(spec.origin), 200)}), and nothing there is imported; "
                    "leave the import out, or give it a name that no adapter's folder has"
                )
                self._blocked(why)
                raise ImportError(why, name=name)
            return spec
        return None

    # pytest's

    def without_conftest(self, load: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
        """Wrap what imports a conftest.py: for one in an adapter's folder there is an empty one."""

        def load_if_apart(conftestpath: Path, *args: Any, **others: Any) -> ModuleType:
            if self.holds(str(conftestpath)):
                return ModuleType("conftest")
            return load(conftestpath, *args, **others)

        return load_if_apart

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Pass by the folders wherever pytest looks for tests."""
        return True if is_inside(self._adapters, collection_path) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Any:
        """Open no collector of a path there, such as one that a configuration names."""
        if not isinstance(collector, pytest.File | pytest.Directory):
            return None
        if not is_inside(self._adapters, collector.path):
            return None
        return pytest.CollectReport(collector.nodeid, "passed", None, [])
