"""Long fuzzing run of the linter: random hostile folders, in worker processes.

Usage: python benchmarks/fuzz.py [--folders 20000] [--seed 0] [--workers 2]
       python benchmarks/fuzz.py --recipe "('plain', (), (('retitle', 0, ''),), 'whole')"

The strategies of tests/adapter/fuzzing/ generate each folder, and the oracle there checks it; every
tenth also goes through the command line. A worker has 3 GiB of address space. A worker that dies
or is silent for a minute is restarted, and its folder counts as a failure. The exit status is 1 if
anything was found.
"""

import argparse
import collections
import contextlib
import io
import itertools
import json
import multiprocessing
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hypothesis import HealthCheck, Phase, given, seed, settings

from phi3_lora_qa.adapter.base_files import BaseFiles
from tests.adapter.fuzzing.build_folder import build, clear, write_bases
from tests.adapter.fuzzing.oracle import BrokenPromise, check, outcome, warm_up
from tests.adapter.fuzzing.recipes import Recipe, read_recipe
from tests.adapter.fuzzing.strategies import recipes

CHUNK = 100
ADDRESS_SPACE = 3 << 30
MAX_SILENCE = 60.0
PROGRESS_INTERVAL = 60.0
COMMAND_EVERY = 10
ANNOTATIONS = tuple(f"::{level} title=" for level in ("error", "warning", "notice"))
FORMATS = ("json", "text", "github", "sarif")
SHOWN = 3


@dataclass(frozen=True)
class Result:
    """The result of one folder; ``kind`` and ``detail`` are empty unless something was found."""

    recipe: str
    verdict: str
    seconds: float
    peak: int
    kind: str = ""
    detail: str = ""


class Runner:
    """Builds folders in its own directory, and lints them."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._room = place / "room"
        self._bases = write_bases(place)
        self._numbers = itertools.count()
        warm_up(self._bases)

    def run(self, recipe: Recipe) -> Result:
        """Run one recipe; the result contains any failure."""
        self._room.mkdir()
        start = time.monotonic()
        kind = detail = ""
        verdict = "broken"
        try:
            folder = build(recipe, self._room)
            start = time.monotonic()
            verdict = check(folder, self._bases[recipe.base])
            taken = time.monotonic() - start
            number = next(self._numbers)
            if number % COMMAND_EVERY == 0:
                form = FORMATS[number // COMMAND_EVERY % len(FORMATS)]
                check_command(folder, self._bases[recipe.base], form)
        except BrokenPromise as error:
            taken, kind, detail = time.monotonic() - start, error.kind, str(error)
        except Exception as error:  # an error of the fuzzer itself, reported like any other
            taken, kind, detail = time.monotonic() - start, "the fuzzer failed", repr(error)
        finally:
            clear(self._room)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return Result(str(recipe), verdict, taken, peak, kind, detail)

    def smallest(self, recipe: Recipe, kind: str) -> Recipe:
        """Remove every step that is not needed for the same failure."""
        for step in recipe.steps:
            steps = tuple(other for other in recipe.steps if other is not step)
            smaller = Recipe(recipe.variant, recipe.extras, steps, recipe.base)
            if self.run(smaller).kind == kind:
                recipe = smaller
        return recipe


def check_command(folder: Path, base: BaseFiles, form: str) -> None:
    """Run ``phi3-lora-qa lint`` on a folder, and check its status and its output.

    Raises:
        BrokenPromise: The status or the output is invalid, or differs from the linter's result.
    """
    from phi3_lora_qa.cli import main

    words = ["phi3-lora-qa", "lint", f"--base={base.path}", f"--format={form}", "--", str(folder)]
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        except Exception as error:
            raise BrokenPromise("the command raised", repr(error)) from error
    expected = {"accepted": 0, "rejected": 1, "error": 2}[outcome(folder, base)]
    if status != expected:
        raise BrokenPromise(f"the command's status is not {expected}", f"{status}")
    # Not splitlines, which splits at more characters than a terminal does.
    lines = out.getvalue().rstrip("\n").split("\n")
    if not all(line.isprintable() for line in (*lines, err.getvalue().rstrip("\n"))):
        raise BrokenPromise("the command's output is not printable", repr(lines)[:1000])
    if status == 2:
        return
    if form == "github" and not all(line.startswith(ANNOTATIONS) for line in lines[:-1]):
        raise BrokenPromise("a line for GitHub is not one of our commands", repr(lines)[:1000])
    if form == "sarif":
        parse(out.getvalue())
    if form == "json" and parse(out.getvalue())["verdict"] != ("accepted", "rejected")[status]:
        raise BrokenPromise("the command's verdict does not match its status")


def parse(text: str) -> Any:
    """Parse an output.

    Raises:
        BrokenPromise: It is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise BrokenPromise("the command's output is not JSON", repr(error)) from error


def work(pipe: Connection, place: Path, first: int, step: int) -> None:
    """Generate and run recipes in chunks, until the parent kills this process."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    runner = Runner(place)
    seen = set[str]()

    def one(recipe: Recipe) -> None:
        pipe.send(str(recipe))
        result = runner.run(recipe)
        pipe.send(result)
        if result.kind and result.kind not in seen and "too long" not in result.kind:
            seen.add(result.kind)
            smallest = runner.smallest(recipe, result.kind)
            pipe.send(("smallest", result.kind, str(smallest)))

    for number in itertools.count(first, step):
        draw(one, number, CHUNK)


def draw(one: Callable[[Recipe], None], number: int, count: int) -> None:
    """Call a function with the recipes that hypothesis generates from a seed."""
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(quiet(given(recipes())(one)))()


@dataclass
class Tally:
    """The results of all workers so far."""

    verdicts: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: dict[str, list[Result]] = field(default_factory=dict)
    smallest: dict[str, str] = field(default_factory=dict)
    slowest: Result = Result("", "", 0.0, 0)
    peak: int = 0

    def add(self, result: Result) -> None:
        """Count one folder."""
        self.verdicts[result.verdict] += 1
        self.peak = max(self.peak, result.peak)
        if result.seconds > self.slowest.seconds:
            self.slowest = result
        if result.kind:
            self.failures.setdefault(result.kind, []).append(result)
            print(f"FOUND {result.kind}: --recipe {shlex.quote(result.recipe)}", flush=True)

    def show(self) -> None:
        """Print counts, the extremes, and every failure with the recipe that reproduces it."""
        parts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        print(f"{self.verdicts.total()} folders: {parts or 'none'}")
        print(f"slowest: {self.slowest.seconds:.2f} s for both lints of {self.slowest.recipe}")
        print(f"peak memory of a worker: {self.peak} MiB")
        for kind, results in sorted(self.failures.items(), key=lambda item: -len(item[1])):
            print(f"\nFOUND {len(results)} times: {kind}")
            if kind in self.smallest:
                print(f"  smallest: --recipe {shlex.quote(self.smallest[kind])}")
            for result in sorted(results, key=lambda o: len(o.recipe))[:SHOWN]:
                print(f"  {result.detail[:500]}\n    --recipe {shlex.quote(result.recipe)}")
        if not self.failures:
            print("nothing found")


class Worker:
    """A process that runs recipes, and its current recipe."""

    def __init__(self, place: Path, first: int, step: int) -> None:
        self.place, self.chunk, self._step = place, first, step
        self.start()

    def start(self) -> None:
        """Start a process; a restarted one gets other recipes."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        # Not the chunk at which the previous process died, which would be generated again.
        arguments = (theirs, self.place / str(self.chunk), self.chunk, self._step)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.chunk += 1_000_000
        self.recipe, self.last_message = "", time.monotonic()

    def take(self) -> Iterator[Any]:
        """Yield the results that the process has sent.

        Raises:
            EOFError: The process has died.
        """
        while self.pipe.poll():
            message = self.pipe.recv()
            self.last_message = time.monotonic()
            if isinstance(message, str):
                self.recipe = message
            else:
                yield message

    def end(self) -> int | None:
        """Kill the process; return its exit status, or the negative signal number."""
        self.process.join(1)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def long_run(folders: int, first: int, workers: int) -> Tally:
    """Run at least this number of folders, and return the results."""
    tally, start, last_progress = Tally(), time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        crew = [
            Worker(Path(place), first * 1_000_000_000 + number, workers)
            for number in range(workers)
        ]
        try:
            while tally.verdicts.total() < folders:
                wait([worker.pipe for worker in crew], timeout=1)
                for worker in crew:
                    listen(worker, tally)
                passed = time.monotonic() - start
                if passed >= last_progress + PROGRESS_INTERVAL:
                    last_progress = passed
                    done, found = tally.verdicts.total(), sum(map(len, tally.failures.values()))
                    print(f"{passed:.0f} s: {done} folders, {found} failures", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
        finally:
            for worker in crew:
                worker.process.kill()
                worker.end()
    return tally


def listen(worker: Worker, tally: Tally) -> None:
    """Process the messages of a worker; restart it if it died or is silent."""
    failure = ""
    try:
        for message in worker.take():
            if isinstance(message, Result):
                tally.add(message)
            else:
                _, kind, recipe = message
                tally.smallest[kind] = recipe
    except EOFError:
        failure = "the worker died"
    if not failure and time.monotonic() - worker.last_message > MAX_SILENCE:
        failure = "the worker was silent"
        worker.process.kill()
    if failure:
        status = worker.end()
        tally.add(Result(worker.recipe, "broken", 0.0, 0, failure, f"{failure}, status {status}"))
        worker.start()


def single(recipe: Recipe) -> Tally:
    """Run one recipe in this process, also through every format of the command."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        runner = Runner(Path(place))
        for _ in range(1 + COMMAND_EVERY * (len(FORMATS) - 1)):
            tally.add(runner.run(recipe))
            if tally.failures:
                break
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folders", type=int, default=20_000, help="minimum number of folders")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folders")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--recipe", help="run only this recipe, as printed for a failure")
    options = parser.parse_args()
    if options.recipe:
        tally = single(read_recipe(options.recipe))
    else:
        tally = long_run(options.folders, options.seed, options.workers)
    tally.show()
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
