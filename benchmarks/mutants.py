"""Mutation testing: do the tests of a package fail when its code is changed?

Usage: python benchmarks/mutants.py FOLDER [...] [--sample N] [--seed S] [--workers W] [--log FILE]

FOLDER is a folder of the package, such as lora. The mutants are cosmic-ray's. Each is written into
a copy of the repository. A process that has already loaded the heavy libraries is forked to run the
folder's tests on it, those of the mutated module first, until one fails. A mutant for which all
tests pass has survived, and is printed as a diff.
"""

import argparse
import ast
import difflib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "phi3_lora_qa"
COPIED = (PACKAGE, "tests", "fixtures", "docs", "pyproject.toml", "benchmarks")
# The operators of cosmic-ray whose mutants compute something: `a << b` on floats raises an error,
# so that killing it says nothing about the tests.
OPERATORS = (
    *(f"ReplaceBinaryOperator_{change}" for change in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Add_Mul", "Sub_Mul", "Pow_Mul", "FloorDiv_Mul",
        "Mod_FloorDiv", "BitOr_BitAnd", "BitAnd_BitOr",
    )),
    *(f"ReplaceComparisonOperator_{change}" for change in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt",
        "Gt_LtE", "GtE_Lt", "Is_IsNot", "IsNot_Is",
    )),
    "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_Invert", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue",
    "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak",
    "ExceptionReplacer", "NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop",
)  # fmt: skip
CASES = "24"
"""Drawn cases of each oracle; the suite has hundreds, which is too slow for each mutant."""
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed module."""

    module: Path
    operator: str
    occurrence: int

    def code(self) -> str:
        """Return the module's code with the change."""
        operator = get_operator(f"core/{self.operator}")()
        code: str = mutate_code((ROOT / self.module).read_text(), operator, self.occurrence)
        return code

    def function(self) -> str:
        """Return the name of the changed function; empty outside of functions."""
        before, after = (ROOT / self.module).read_text(), self.code()
        pairs = zip(before.splitlines(), after.splitlines(), strict=False)
        line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), 0)
        around = [
            node.name
            for node in ast.walk(ast.parse(before))
            if isinstance(node, ast.FunctionDef)
            and min([node.lineno, *(d.lineno for d in node.decorator_list)]) <= line
            and line <= (node.end_lineno or 0)
        ]
        return around[-1] if around else ""

    def diff(self) -> str:
        """Return the lines that differ."""
        before = (ROOT / self.module).read_text().splitlines()
        lines = list(difflib.unified_diff(before, self.code().splitlines(), lineterm="", n=0))
        return "\n".join([f"{self.module} {self.operator} {lines[2]}", *lines[3:]])


def mutants_of(folder: str) -> Iterator[Mutant]:
    """Yield every mutant of a folder, except where a change cannot affect the results."""
    for path in sorted((ROOT / PACKAGE / folder).rglob("*.py")):
        source = path.read_text()
        spans = list(_inert(ast.parse(source)))
        nodes = list(ast_nodes(get_ast(source)))
        for name in OPERATORS:
            operator = get_operator(f"core/{name}")()
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            for occurrence, (start, _) in enumerate(places):
                if not any(first <= start < last for first, last in spans):
                    yield Mutant(
                        module=path.relative_to(ROOT), operator=name, occurrence=occurrence
                    )


Place = tuple[int, int]
"""A line, from 1, and a column, from 0."""


def _inert(tree: ast.AST) -> Iterator[tuple[Place, Place]]:
    """Yield the places that compute nothing: they only inform readers and type checkers.

    These are annotations, imports for type checkers, `@abstractmethod`, the options of dataclasses,
    and the star before keyword-only arguments.
    """
    for node in ast.walk(tree):
        inert = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inert.append(node.test)
        for decorator in getattr(node, "decorator_list", ()):
            if ast.unparse(decorator).startswith(("abstractmethod", "dataclass(")):
                inert.append(decorator)
        if isinstance(node, ast.arguments) and node.kwonlyargs and not node.vararg:
            before: tuple[ast.expr | ast.arg, ...] = (*node.args, *node.defaults)
            first = node.kwonlyargs[0]
            start = max(map(_end, before), default=(first.lineno - 1, 0))
            yield start, (first.lineno, first.col_offset)
        for found in inert:
            if isinstance(found, ast.expr):
                yield (found.lineno, max(found.col_offset - 1, 0)), _end(found)


def _end(node: ast.expr | ast.arg) -> Place:
    return node.end_lineno or 0, node.end_col_offset or 0


class Tree:
    """A copy of the repository that contains one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, folder / name)

    def start(self, tests: Sequence[Sequence[str]], seconds: int) -> int:
        """Fork a process that runs tests here, one group after another, until one fails.

        The process is limited to this many seconds of CPU time. Returns its id.
        """
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        os.chdir(self.folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(PYTHONPATH=str(self.folder), LORA_CASES=CASES)
        sys.path.insert(0, str(self.folder))
        import pytest

        status = 99
        try:
            for group in filter(None, tests):
                options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *group]
                status = int(pytest.main(options))
                if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                    break
                status = 0
        finally:
            os._exit(status)

    def put(self, mutant: Mutant) -> None:
        """Write a mutant; its bytecode is not cached, unlike that of the other modules."""
        sys.dont_write_bytecode = True
        (self.folder / mutant.module).write_text(mutant.code())

    def restore(self, mutant: Mutant) -> None:
        """Restore the module with its old time stamp, so that its bytecode is valid again."""
        shutil.copy2(ROOT / mutant.module, self.folder / mutant.module)


def groups_of(folder: str, mutant: Mutant | None = None) -> Sequence[Sequence[str]]:
    """Return the folder's tests, first those named after the changed module or its function."""
    groups: list[list[str]] = [[], [], []]
    own, others, oracles = groups
    for file in sorted((ROOT / "tests" / folder).rglob("test_*.py")):
        named = mutant is not None and file.stem == f"test_{mutant.module.stem}"
        group = own if named else oracles if "oracles" in file.stem else others
        group.append(str(file.relative_to(ROOT)))
    if mutant is not None and (function := mutant.function()):
        groups.insert(1, [*others, "-k", function])
    return groups


def load_libraries() -> None:
    """Load the libraries that the tests need, once for all forks."""
    import hypothesis.strategies
    import loralib
    import peft
    import pytest
    import scipy.linalg
    import torch
    import transformers
    from _pytest.assertion.rewrite import AssertionRewritingHook
    from peft.tuners.lora import dora, variants
    from transformers.models.phi3 import modeling_phi3

    _ = hypothesis.strategies, loralib, peft, pytest, scipy.linalg, dora, variants, modeling_phi3
    _ = transformers
    torch.set_num_threads(1)  # threads do not survive a fork
    # It would warn that these libraries are already loaded, and some tests allow no warning.
    AssertionRewritingHook._warn_already_imported = lambda self, name: None  # type: ignore[method-assign]
    assert not any(name.startswith(PACKAGE) for name in sys.modules), "loaded"


def run_all(folder: str, chosen: Sequence[Mutant], workers: int, log: Path) -> Counter[str]:
    """Run each mutant of a folder; log and count the outcomes."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place, log.open("a") as written:
        free = []
        for number in range(workers):
            copy = Path(place, str(number))
            copy.mkdir()
            free.append(Tree(copy))
        seconds = 2 * max(baseline(tree, folder) for tree in free) + 20
        running: dict[int, tuple[Mutant, Tree]] = {}
        waiting = list(reversed(chosen))
        while waiting or running:
            while free and waiting:
                mutant, tree = waiting.pop(), free.pop()
                tree.put(mutant)
                started = tree.start(groups_of(folder, mutant), seconds)
                running[started] = mutant, tree
            child, status = os.wait()
            mutant, tree = running.pop(child)
            tree.restore(mutant)
            free.append(tree)
            outcome = TIMEOUT if os.WIFSIGNALED(status) else SURVIVED if status == 0 else KILLED
            counts[outcome] += 1
            done = sum(counts.values())
            print(f"{outcome} {mutant.diff()}", file=written, flush=True)
            if outcome == SURVIVED:
                print(f"\r{mutant.diff()}")
            print(f"\r{done} of {len(chosen)}: {dict(counts)} ", end="", flush=True)
    print()
    return counts


def baseline(tree: Tree, folder: str) -> int:
    """Run a folder's tests without a mutant; return their seconds of CPU time. They must pass."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    _, status = os.waitpid(tree.start(groups_of(folder), 3600), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        sys.exit(
            (tree.folder / "output.txt").read_text()
            + f"\nthe tests of {folder} fail without a mutant"
        )
    seconds = after.ru_utime - before.ru_utime
    print(f"{folder}: {seconds:.0f} s of CPU time, {time.perf_counter() - started:.0f} s in all")
    return int(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="below phi3_lora_qa, such as lora")
    parser.add_argument(
        "--sample", type=int, default=0, help="the number of mutants of each folder, drawn; 0: all"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("mutants.log"))
    arguments = parser.parse_args()
    load_libraries()
    for folder in arguments.folders:
        every = list(mutants_of(folder))
        few = min(arguments.sample or len(every), len(every))
        chosen = random.Random(arguments.seed).sample(every, few)
        print(f"{folder}: {few} of {len(every)} mutants")
        counts = run_all(folder, chosen, arguments.workers, arguments.log)
        killed = counts[KILLED] + counts[TIMEOUT]
        print(f"{folder}: {killed} of {few} killed ({100 * killed / few:.1f} %)")


if __name__ == "__main__":
    main()
