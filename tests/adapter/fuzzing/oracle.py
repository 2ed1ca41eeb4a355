"""The oracle: lints a folder and checks the promises of SECURITY.md."""

import functools
import random
import stat
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import EXPECTED_FILES, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint import INTERNAL, LintReport, lint
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.errors import BaseModelError, Phi3LoraQAError
from tests.adapter.fuzzing.action_recording import recorded_actions
from tests.adapter.fuzzing.build_folder import EXTRAS, build
from tests.adapter.fuzzing.image import CANARY
from tests.adapter.fuzzing.limits import Overtime, alarm, cpu_seconds, memory_limit, peak_memory
from tests.adapter.fuzzing.recipes import Recipe
from tests.adapter.healthy import HEALTHY

MAX_SECONDS = 5.0
"""CPU time, including the child's. The wall-clock limit is three times as long: a busy machine must
not look like a slow linter, and a linter that blocks must not look like a fast one."""

MAX_BYTES = 1 << 30


class BrokenPromise(AssertionError):  # noqa: N818 - named for what it reports
    """A property that every folder must have is violated; ``kind`` groups similar cases."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


def check(folder: Path, base: BaseFiles) -> str:
    """Lint a folder without and with a base, and check the promises.

    Returns:
        ``accepted`` or ``rejected``, the stricter of the two, or ``error`` for a typed error.

    Raises:
        BrokenPromise: A promise is broken.
    """
    outcomes = [outcome(folder, given) for given in (None, base)]
    return next((o for o in ("error", "rejected") if o in outcomes), "accepted")


def outcome(folder: Path, base: BaseFiles | None) -> str:
    """Lint a folder once, and check the promises."""
    before, descriptors = _snapshot(folder), _descriptors()
    try:
        report = _bounded_lint(folder, base)
    except BaseModelError as error:
        raise BrokenPromise("the base is blamed", repr(error)) from error
    except Phi3LoraQAError as error:
        if not str(error).isprintable():
            raise BrokenPromise("an error is not printable", repr(error)) from error
        report = None
    except BrokenPromise:
        raise
    except Exception as error:
        raise BrokenPromise(f"an untyped {type(error).__name__}", repr(error)) from error
    if _snapshot(folder) != before:
        raise BrokenPromise("the folder was changed", str(_snapshot(folder)))
    if _descriptors() != descriptors:
        raise BrokenPromise("a file was left open")
    if report is None:
        return "error"
    _check_report(report, folder)
    return report.verdict


def _check_report(report: LintReport, folder: Path) -> None:
    for found in report.findings:
        texts = (found.where, found.message, found.fix)
        if found.rule == INTERNAL:
            what = found.message.partition(":")[0]
            raise BrokenPromise(f"the linter failed: {what}", found.message)
        if not all(text and text.isprintable() and len(text) < 4100 for text in texts):
            raise BrokenPromise(
                f"a text of {found.rule} is empty, long or unprintable", repr(found)
            )
        if any(CANARY in text for text in texts):
            raise BrokenPromise("a link was followed", repr(found))
    if not report.adapter.isprintable():
        raise BrokenPromise("the adapter's path is not printable", repr(report.adapter))
    if report.accepted:
        _check_accepted(folder)


def _check_accepted(folder: Path) -> None:
    """Check that an accepted folder has only regular files, and the reference parser agrees."""
    from safetensors import safe_open

    for path in folder.iterdir():
        regular = stat.S_ISREG(path.lstat().st_mode)
        if not regular and (path.name in EXPECTED_FILES or not path.is_dir() or path.is_symlink()):
            raise BrokenPromise("an irregular file is accepted", repr(path.name))
    with safe_open(folder / WEIGHTS, "np") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    opened = AdapterFolder.open(folder)
    own = open_safetensors(functools.partial(opened.open_file, WEIGHTS), WEIGHTS)
    if theirs != {name: info.shape for name, info in own.tensors.items()}:
        raise BrokenPromise("the reference parser sees other tensors", str(folder))


def _bounded_lint(folder: Path, base: BaseFiles | None) -> LintReport:
    actions: list[tuple[str, str]] = []
    start, before = cpu_seconds(), peak_memory()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with memory_limit(MAX_BYTES), alarm(3 * MAX_SECONDS), recorded_actions(folder, actions):
                return lint(AdapterFolder.open(folder), base)
        except Overtime:
            raise BrokenPromise("it took too long", f"more than {3 * MAX_SECONDS:g} s") from None
        finally:
            taken, grown = cpu_seconds() - start, peak_memory() - before
            if taken > MAX_SECONDS:
                raise BrokenPromise("it took too long", f"{taken:.1f} s of CPU time")
            if grown > MAX_BYTES:
                raise BrokenPromise("it took too much memory", f"{grown >> 20} MiB")
            if actions:
                raise BrokenPromise(f"it did {actions[0][0]}", repr(actions))
            if warned:
                raise BrokenPromise(f"a {warned[0].category.__name__}", str(warned[0].message))


def _snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the lstat of everything in the folder, without access times."""
    try:
        paths = [folder, *folder.iterdir()]
    except OSError:
        return {}
    return {
        path.name: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink)
        for path in paths
        for s in (path.lstat(),)
    }


def _descriptors() -> int:
    place = Path("/proc/self/fd")
    return sum(1 for _ in place.iterdir()) if place.is_dir() else 0


def warm_up(bases: Mapping[str, BaseFiles]) -> None:
    """Lint healthy adapters once, so that Python's imports are not recorded as actions."""
    sys.dont_write_bytecode = True
    names = sorted(HEALTHY)
    random.Random(0).shuffle(names)
    with tempfile.TemporaryDirectory() as place:
        for name in names[:4]:
            room = Path(place) / name
            room.mkdir()
            folder = build(Recipe(name, EXTRAS), room)
            for given in (None, *bases.values()):
                lint(AdapterFolder.open(folder), given)
