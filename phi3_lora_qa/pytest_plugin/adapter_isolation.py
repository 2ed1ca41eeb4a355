"""Isolates adapters' folders from pytest: nothing in them is imported, collected or configures it.

The files that pytest will load cannot be predicted, so their loaders are intercepted: pytest's only
function that imports a ``conftest.py``, its only function that opens a collector, and Python's
module finders. The run ends if pytest has read settings from a folder, or Python has imported a
module from it.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import ModuleSpec
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.libraries import incompatible, part_of
from phi3_lora_qa.settings import is_inside, real, reject_if_inside

_PLUGIN = "phi3-lora-qa-isolation"


def isolate_adapters(
    config: pytest.Config,
    adapters: Sequence[Path],
    places: Sequence[Path],
    on_blocked: Callable[[str], None],
) -> None:
    """Keep pytest and Python's imports out of the adapters' folders until the session ends.

    Args:
        config: pytest's configuration.
        adapters: The folders.
        places: Where pytest reads configuration and tests from.
        on_blocked: Called with the message when the import of a module is refused.

    Raises:
        InputError: pytest has read settings from a folder, or Python has imported a module from it.
        IncompatibleLibraryError: This version of pytest loads a conftest.py differently.
    """
    # Removed first: refusing the run, and reporting that, needs imports of our own.
    removed = [entry for entry in map(str, sys.path) if is_inside(adapters, Path(entry))]
    sys.path[:] = [entry for entry in sys.path if str(entry) not in removed]
    for place in places:
        reject_if_inside(adapters, place, "settings and tests")
    for entry in removed:
        reject_if_inside(
            adapters,
            Path(entry),
            "modules on Python's import path",
            "remove that entry from the path",
        )
    for adapter in adapters:
        _require_no_package(adapter, config.invocation_params.dir)
    isolation = _Isolation(adapters, on_blocked)
    for module in [one for one in sys.modules.values() if isinstance(one, ModuleType)]:
        known = vars(module)  # getattr on a module may import another one
        for file in (getattr(known.get("__spec__"), "origin", None), known.get("__file__")):
            if isolation.contains(file):
                reject_if_inside(adapters, Path(str(file)), "modules already imported")
    if config.pluginmanager.register(isolation, _PLUGIN) is None:
        raise InputError(f"-p no:{_PLUGIN} would let pytest load the adapter's files; remove it")
    _intercept_conftests(config.pluginmanager, isolation)
    sys.meta_path.insert(0, isolation)
    config.add_cleanup(isolation.remove)


def _intercept_conftests(manager: Any, isolation: "_Isolation") -> None:
    original = part_of("pytest", "_pytest.config", "PytestPluginManager._importconftest")
    if [*signature(original).parameters][1:2] != ["conftestpath"]:
        raise incompatible("pytest", "calls _importconftest without conftestpath")
    manager._importconftest = isolation.without_conftest(manager._importconftest)


def _require_no_package(adapter: Path, directory: Path) -> None:
    """Refuse a folder that Python, started here, would take for a module or an installed package.

    xdist's workers and ``python -m pytest`` import from the directory in which they are started,
    before any plugin runs.
    """
    if "__pycache__" in real(adapter).parts:
        raise InputError(
            f"the adapter's folder {escape(str(adapter), 200)} is in a folder of compiled modules, "
            "from which Python imports; move it"
        )
    importable = [real(Path(entry)) for entry in (str(directory), *sys.path)]
    for folder in (adapter.absolute(), real(adapter)):
        if real(folder.parent) in importable and _is_package(folder):
            raise InputError(
                f"the adapter's folder {escape(str(folder), 200)} looks like a Python package in a "
                "folder from which Python imports; move it, or run from another folder"
            )


def _is_package(folder: Path) -> bool:
    if folder.name.endswith((".dist-info", ".egg-info", ".egg")):
        return True
    try:
        names = os.listdir(folder)  # noqa: PTH208  only names are needed
    except OSError:
        return False  # the error is reported when the folder is opened
    return folder.name.isidentifier() and any(name.startswith("__init__.") for name in names)


def drop_configured_paths(config: pytest.Config, adapters: Sequence[Path]) -> None:
    """Remove the adapters' folders from the test paths in a configuration.

    Paths that the user typed are kept. With ``--pyargs``, the named modules are searched for here,
    so that a module in an adapter's folder is refused before the gate begins.
    """
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        directory = config.invocation_params.dir
        config.args = [arg for arg in config.args if not is_inside(adapters, directory / arg)]
    if config.option.pyargs:
        for name in config.args:
            with contextlib.suppress(ImportError, AttributeError, ValueError):
                importlib.util.find_spec(name.partition("::")[0])


class _Isolation:
    """Runs before Python's module finders, and filters what pytest collects."""

    def __init__(self, adapters: Sequence[Path], on_blocked: Callable[[str], None]) -> None:
        self._adapters, self._on_blocked = tuple(adapters), on_blocked
        self._is_inside = cache(lambda folder: is_inside(self._adapters, Path(folder)))

    def contains(self, file: object) -> bool:
        """Whether a file is in an adapter's folder, links followed."""
        if not isinstance(file, str) or file in ("built-in", "frozen"):
            return False
        try:
            folder = os.path.dirname(os.path.realpath(file))  # noqa: PTH120  for speed
            return self._is_inside(folder)
        except ValueError:  # a NUL
            return False

    def remove(self) -> None:
        """Remove this from Python's module finders."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    # Python's imports

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the other finders' result, unless it is in an adapter's folder."""
        at = sys.meta_path.index(self) if self in sys.meta_path else -1
        for finder in sys.meta_path[at + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is None:
                continue
            if self.contains(spec.origin):
                why = (
                    f"the module {escape(name, 80)} is in an adapter's folder "
                    f"({escape(str(spec.origin), 200)}), from which nothing is imported; "
                    "remove the import, or rename the module"
                )
                self._on_blocked(why)
                raise ImportError(why, name=name)
            return spec
        return None

    # pytest

    def without_conftest(self, load: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
        """Wrap pytest's import of a conftest.py; one in an adapter's folder becomes empty."""

        def load_unless_inside(conftestpath: Path, *args: Any, **others: Any) -> ModuleType:
            if self.contains(str(conftestpath)):
                return ModuleType("conftest")
            return load(conftestpath, *args, **others)

        return load_unless_inside

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore the folders when pytest looks for tests."""
        return True if is_inside(self._adapters, collection_path) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Any:
        """Collect nothing from a path in the folders, such as one in a configuration."""
        if not isinstance(collector, pytest.File | pytest.Directory):
            return None
        if not is_inside(self._adapters, collector.path):
            return None
        return pytest.CollectReport(collector.nodeid, "passed", None, [])
