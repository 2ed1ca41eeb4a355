"""Hostile runs, composed of where the folder lies, what is planted in it, how pytest is called.

A place puts the folder somewhere and says what pytest is called with, and from where. A file would
leave a mark if it ran, or let the run pass if it was obeyed. A way asks for the adapter.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Placed:
    """An adapter's folder, and how pytest is called for it."""

    adapter: Path
    here: Path
    args: tuple[str, ...] = ()
    refused: bool = False
    """Whether there is no telling pytest's own files from the adapter's."""


@dataclass(frozen=True)
class Asked:
    """What asks for the adapter: arguments, and variables of the environment."""

    args: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def below(name: str) -> Callable[[Path, Path], Placed]:
    """Put the folder into a project, under a name that pytest may look for."""

    def place(source: Path, room: Path) -> Placed:
        return Placed(moved(source, room / name), room)

    return place


def moved(source: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(source, folder))


def as_testpath(source: Path, room: Path) -> Placed:
    (room / "pytest.ini").write_text("[pytest]\ntestpaths = checks\n")
    return Placed(moved(source, room / "checks" / "test_adapter"), room)


def as_argument(source: Path, room: Path) -> Placed:
    folder = moved(source, room / "adapter")
    return Placed(folder, room, (str(folder),), refused=True)


def below_an_argument(source: Path, room: Path) -> Placed:
    return Placed(moved(source, room / "own" / "test_adapter"), room, ("own",))


def as_here(source: Path, room: Path) -> Placed:
    folder = moved(source, room / "adapter")
    return Placed(folder, folder, refused=True)


def as_root(source: Path, room: Path) -> Placed:
    folder = moved(source, room / "adapter")
    return Placed(folder, room, (f"--rootdir={folder}",), refused=True)


def as_confcutdir(source: Path, room: Path) -> Placed:
    folder = moved(source, room / "test_adapter")
    return Placed(folder, room, (f"--confcutdir={folder}",))


def by_a_link_to_it(source: Path, room: Path) -> Placed:
    folder = moved(source, room.parent / f"{room.name}-elsewhere")
    (room / "test_link").symlink_to(folder)
    return Placed(room / "test_link", room)


def with_a_link_among_the_tests(source: Path, room: Path) -> Placed:
    folder = moved(source, room.parent / f"{room.name}-elsewhere")
    (room / "tests").mkdir()
    (room / "tests" / "test_link").symlink_to(folder)
    return Placed(folder, room, ("tests",))


def around_another(source: Path, room: Path) -> Placed:
    outer = moved(source, room / "test_outer")
    inner = moved(source, outer / "test_inner")
    # Both by options, which go before a variable and a file.
    return Placed(outer, room, (f"--phi3-adapter={outer}", f"--phi3-adapter={inner}"))


def on_pythons_path(source: Path, room: Path) -> Placed:
    (room / "pytest.ini").write_text("[pytest]\npythonpath = adapter\n")
    return Placed(moved(source, room / "adapter"), room, refused=True)


PLACES: dict[str, Callable[[Path, Path], Placed]] = {
    "below a project": below("adapters/first"),
    "called as a test": below("test-adapter"),
    "called tests": below("tests"),
    "below a testpath": as_testpath,
    "an argument": as_argument,
    "below an argument": below_an_argument,
    "where pytest starts": as_here,
    "the root": as_root,
    "where conftests end": as_confcutdir,
    "a link": by_a_link_to_it,
    "linked among the tests": with_a_link_among_the_tests,
    "around another": around_another,
    "on Python's path": on_pythons_path,
}


def runs(mark: Path) -> str:
    """Return a program that leaves a mark, and ends the process as if all was well."""
    return f"import os, pathlib\npathlib.Path({str(mark)!r}).write_text('')\nos._exit(0)\n"


FILES: dict[str, Callable[[Path], dict[str, str]]] = {
    "a conftest": lambda mark: {"conftest.py": runs(mark)},
    "a conftest below": lambda mark: {"test_more/conftest.py": runs(mark)},
    "a test": lambda mark: {"test_it.py": runs(mark)},
    "a package": lambda mark: {
        "__init__.py": runs(mark),
        "test_it.py": "def test(): pass\n",
        "test_more/__init__.py": runs(mark),
    },
    "a doctest": lambda mark: {"test_it.txt": f">>> exec({runs(mark)!r})\n"},
    "modules of known names": lambda mark: dict.fromkeys(
        (
            "json.py",
            "tomllib.py",
            "secrets.py",
            "torch.py",
            "numpy.py",
            "jinja2.py",
            "peft.py",
            "sitecustomize.py",
            "own.py",
        ),
        runs(mark),
    ),
    "an ini file": lambda mark: {
        "pytest.ini": "[pytest]\naddopts = --phi3-lint-ignore=values --collect-only\n"
        "python_files = *.py\n",
        "conftest.py": runs(mark),
    },
    "a project": lambda mark: {
        "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n"
        "[tool.phi3_lora_qa]\nlint_ignore = ['values']\n",
        "setup.cfg": "[tool:pytest]\naddopts = -p no:phi3_lora_qa\n",
    },
    "settings of ours": lambda mark: {"phi3-lora-qa.toml": "lint_ignore = ['values']\n"},
}

WAYS: dict[str, Callable[[Path, Path], Asked]] = {
    "an option": lambda adapter, room: Asked((f"--phi3-adapter={adapter}",)),
    "an option and a word": lambda adapter, room: Asked(("--phi3-adapter", str(adapter))),
    "a variable": lambda adapter, room: Asked((), {"PHI3_LORA_QA_ADAPTER": str(adapter)}),
    "arguments of the environment": lambda adapter, room: Asked(
        (), {"PYTEST_ADDOPTS": f"--phi3-adapter={adapter}"}
    ),
    "a file": lambda adapter, room: Asked((f"-ophi3_adapter={adapter}",)),
    "workers": lambda adapter, room: Asked((f"--phi3-adapter={adapter}", "-n2")),
    "no tests of one's own": lambda adapter, room: Asked(
        (f"--phi3-adapter={adapter}", "--phi3-only")
    ),
    "doctests": lambda adapter, room: Asked(
        (f"--phi3-adapter={adapter}", "--doctest-modules", "--doctest-glob=*.txt")
    ),
    "importlib": lambda adapter, room: Asked(
        (f"--phi3-adapter={adapter}", "--import-mode=importlib")
    ),
}


def composed(count: int) -> Iterator[tuple[str, str, str]]:
    """Yield (place, file, way): all for 0, else some in which each occurs about as often."""
    if count == 0:
        yield from itertools.product(PLACES, FILES, WAYS)
        return
    places, files, ways = list(PLACES), list(FILES), list(WAYS)
    for number in range(count):
        shift = number // len(files)
        yield (
            places[number % len(places)],
            files[number % len(files)],
            ways[(number + shift) % len(ways)],
        )


def run(placed: Placed, asked: Asked, report: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest as a person would, with a report of the static stage."""
    others = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PHI3_LORA_QA_"))}
    command = [
        sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:randomly", *asked.args,
        "--phi3-base=tiny", "--phi3-stage=static", f"--phi3-report={report}", *placed.args,
    ]  # fmt: skip
    return subprocess.run(
        command,
        cwd=placed.here,
        env=others | asked.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
