"""Random hostile folders; `python benchmarks/fuzz.py` runs many more."""

import contextlib
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    EXPECTED_FILES,
    MANIFEST,
    MODEL_CARD,
    TEMPLATE_FOLDER,
    TRAINING_LOG,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import P
from tests.adapter.fuzzing import oracle
from tests.adapter.fuzzing.build_folder import build, clear, pristine, write_bases
from tests.adapter.fuzzing.image import HEADER
from tests.adapter.fuzzing.oracle import BrokenPromise, check, warm_up
from tests.adapter.fuzzing.recipes import Recipe, Step, read_recipe
from tests.adapter.fuzzing.strategies import recipes
from tests.adapter.healthy import HEALTHY

pytestmark = pytest.mark.slow

QKV = f"{P}model.layers.0.self_attn.qkv_proj.lora_A.weight"
FAR = ("put", CONFIG, "target_modules", "@far:255")
ALL = ("tokenizer", "card", "manifest")
OUTCOMES = ("accepted", "rejected")


# Here only a limit against hanging: two workers share the caches, and a slow machine must not fail
# the tests. benchmarks/fuzz.py checks the five seconds that are promised.
oracle.MAX_SECONDS = 20.0


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, BaseFiles]:
    made = write_bases(tmp_path_factory.mktemp("bases"))
    warm_up(made)
    return made


def run(recipe: Recipe, bases: Mapping[str, BaseFiles]) -> str:
    with tempfile.TemporaryDirectory() as place:
        room = Path(place) / "room"
        room.mkdir()
        folder = build(recipe, room)
        try:
            return check(folder, bases[recipe.base])
        finally:
            clear(room)


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=130,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(recipe=recipes(quick=True))
def test_any_folder_gets_a_verdict_or_a_typed_error_and_nothing_else_happens(
    bases: Mapping[str, BaseFiles], recipe: Recipe
) -> None:
    assert run(recipe, bases) in ("accepted", "rejected", "error")


def is_small(recipe: Recipe) -> bool:
    return not any(step[0].startswith("sparse") for step in recipe.steps)


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(recipe=recipes(quick=True).filter(is_small))
def test_a_private_copy_of_any_folder_has_only_regular_files_that_ship(
    recipe: Recipe,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        room, copy = Path(place) / "room", Path(place) / "copy"
        room.mkdir()
        folder = build(recipe, room)
        with contextlib.suppress(AdapterError):
            AdapterFolder.open(folder).snapshot(copy)
        for path in copy.rglob("*") if copy.is_dir() else ():
            name = path.relative_to(copy).as_posix()
            if name == TEMPLATE_FOLDER:
                assert stat.S_ISDIR(path.lstat().st_mode)
                continue
            assert name.count("/") == name.startswith(f"{TEMPLATE_FOLDER}/")
            assert not name.endswith((".bin", ".pt", ".pkl"))
            assert stat.S_ISREG(path.lstat().st_mode)
            assert path.read_bytes() == (folder / name).read_bytes()
        clear(room)


@pytest.mark.parametrize("base", ["whole", "tied", "bare"])
@pytest.mark.parametrize("variant", ["plain", "dora", "trained_tokens"])
def test_a_recipe_without_steps_is_the_healthy_variant(
    variant: str, base: str, bases: Mapping[str, BaseFiles]
) -> None:
    assert run(Recipe(variant, base=base), bases) == "accepted"


@settings(max_examples=200, deadline=None)
@given(recipes())
def test_a_printed_recipe_can_be_parsed(recipe: Recipe) -> None:
    assert read_recipe(str(recipe)) == recipe


# Found by fuzzing. Each once crashed a rule, hung, or used unbounded memory.

FOUND: dict[str, tuple[Step, ...]] = {
    "an alpha out of the range of floats": (("put", CONFIG, "lora_alpha", "@digits:400"),),
    "an alpha of a pattern out of the range of floats": (
        ("put", CONFIG, "alpha_pattern", '{"o_proj":1' + "0" * 400 + "}"),
    ),
    "a recorded loss out of the range of floats": (
        ("put", MANIFEST, "final_losses", '{"train":1' + "0" * 400 + "}"),
    ),
    "a recorded scaling out of the range of floats": (
        ("node", MANIFEST, 3, 0, "@digits:400"),
        ("put", MANIFEST, "scaling", '{"model.layers.0.mlp.down_proj":1' + "0" * 400 + "}"),
    ),
    "a duplicate of the last of very many keys": (("crowd", CONFIG, 90_000, 1),),
    "a duplicate of the last of very many tensors": (("crowd", HEADER, 90_000, 1),),
    "an empty tensor of 2^62 rows": (("tensor", 0, "F32", (1 << 62, 0), "zero"),),
    "an empty tensor of 2^62 columns": (("tensor", 0, "F32", (0, 1 << 62), "zero"),),
    "an empty tensor of many rows and three dimensions": (
        ("tensor", 0, "F32", (1 << 40, 0, 1), "zero"),
    ),
    "an empty tensor of many rows, read in blocks": (
        ("tensor", 0, "F32", (1 << 36, 0, 1), "zero"),
    ),
    "float64 whose squares overflow": (("recast", "", "F64", "largest"),),
    "float64 whose fourth powers overflow": (("recast", "", "F64", "wide"),),
    "float32 whose fourth powers overflow": (("recast", "", "F32", "largest"),),
    "numbers of every size": (("recast", "", "F64", "spread"),),
    "a scalar in place of a factor": (("tensor", 1, "F32", (), "one"),),
    "a tensor without a name": (("retitle", 0, ""),),
    "a character set, repeated": (("put", CONFIG, "target_modules", "@pattern:33"),),
    "many character sets, repeated": (("put", CONFIG, "rank_pattern", "@patterns:33"),),
    "many character sets and ranges": (FAR, ("put", CONFIG, "rank_pattern", "@patterns:34")),
    "a tokenizer above its size limit": (("sparse", "tokenizer.json", 65 << 20),),
    "a model card above every size limit": (("sparse", MODEL_CARD, 33 << 30),),
    "a sparse model card": (("sparse", MODEL_CARD, 5 << 30),),
    "sparse weights": (("sparse_tensor", 0, 1 << 30),),
    "a sparse factor below the limit": (("sparse_tensor", 0, 1 << 20),),
}


@pytest.mark.parametrize("variant", ["plain", "dora"])
@pytest.mark.parametrize("found", FOUND)
def test_cases_found_by_fuzzing_stay_fixed(
    found: str, variant: str, bases: Mapping[str, BaseFiles]
) -> None:
    assert run(Recipe(variant, ALL, FOUND[found]), bases) in OUTCOMES


@pytest.mark.parametrize("name", [*EXPECTED_FILES, TRAINING_LOG])
def test_a_file_larger_than_every_limit_is_handled(
    name: str, bases: Mapping[str, BaseFiles]
) -> None:
    """All other files are present, so that every rule runs."""
    extras = ("tokenizer", "template", "older", "card", "manifest")
    for size in (65 << 20, 33 << 30):
        assert run(Recipe("plain", extras, (("sparse", name, size),)), bases) in OUTCOMES


@pytest.mark.parametrize("variant", HEALTHY)
def test_any_tensor_may_have_any_shape(variant: str, bases: Mapping[str, BaseFiles]) -> None:
    """One tensor of each kind, with a base, so that every rule runs."""
    names = list(HEALTHY[variant]().tensors)
    kinds = {re.sub(r"\d+", "", name): index for index, name in enumerate(names)}
    for index in kinds.values():
        for shape in ((), (0, 5), (2, 3, 4)):
            step = ("tensor", index, "F32", shape, "one")
            assert run(Recipe(variant, (), (step,)), bases) == "rejected"


def test_the_combination_of_expensive_cases_is_within_the_time_limit(
    bases: Mapping[str, BaseFiles],
) -> None:
    steps = (
        FAR,
        ("put", CONFIG, "rank_pattern", "@dotted:512"),
        ("put", CONFIG, "alpha_pattern", "@patterns:0"),
        ("put", CONFIG, "target_parameters", "@names:2048"),
        ("put", CONFIG, "modules_to_save", "@names:2048"),
        ("put", CONFIG, "trainable_token_indices", "@lists:2048"),
        ("swarm", "layers", 1000),
    )
    assert run(Recipe("plain", ALL, steps), bases) == "rejected"


# The oracle itself must find what it is made for.


@pytest.fixture
def linted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "MisbehavingLinter":
    return MisbehavingLinter(build(Recipe("plain"), tmp_path), monkeypatch)


class MisbehavingLinter:
    """A healthy folder, linted by a linter that runs some code first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = monkeypatch

    def outcome(self, action: str, base: BaseFiles) -> str:
        def misbehaving(folder: AdapterFolder, base: BaseFiles | None = None) -> LintReport:
            exec(action, {"folder": folder.path, "os": os, "subprocess": subprocess, "sys": sys})
            return lint(folder, base)

        self._patch.setattr(oracle, "lint", misbehaving)
        return check(self.folder, base)


ACTIONS = {
    "open('/dev/full', 'w')": "open",
    "os.mkdir(folder / 'x')": "os.mkdir",
    "(folder / 'README.md').open('rb').close()": "open",
    "os.close(os.open(folder / 'kept.bin', os.O_RDONLY | os.O_NOFOLLOW))": "open",
    "os.remove(folder / 'kept.bin')": "os.remove",
    "os.rename(folder / 'kept.bin', folder / 'x')": "os.rename",
    "subprocess.run([sys.executable, '-c', ''])": "subprocess.Popen",
    "__import__('socket').socket().close()": "socket",
    "__import__('pickle').loads(b'cos\\nsystem\\n.')": "pickle",
    "os.waitpid(os.fork() or os._exit(0), 0)": "os.fork",
    "(folder / 'kept.bin').chmod(0o600)": "os.chmod",
    "__import__('warnings').warn('x', RuntimeWarning)": "RuntimeWarning",
    "bytearray(2 << 30)": "MemoryError",
    "raise ValueError": "ValueError",
    "globals()['kept'] = os.open(folder, 0); sys.kept = kept": "left open",
    "os.utime(folder / 'kept.bin', (1, 1))": "os.utime",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limits and /proc")
@pytest.mark.parametrize("action", ACTIONS)
def test_a_forbidden_action_of_the_linter_is_found(
    action: str, linted: MisbehavingLinter, bases: Mapping[str, BaseFiles]
) -> None:
    for name in ("README.md", "kept.bin"):
        (linted.folder / name).write_text("x")
    with pytest.raises(BrokenPromise, match=ACTIONS[action]):
        linted.outcome(action, bases["whole"])
    if hasattr(sys, "kept"):
        os.close(sys.kept)
        del sys.kept


def test_a_linter_that_hangs_is_found(
    linted: MisbehavingLinter, bases: Mapping[str, BaseFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "MAX_SECONDS", 0.1)
    with pytest.raises(BrokenPromise, match="too long"):
        linted.outcome("while True: pass", bases["whole"])


def test_a_correct_linter_passes(linted: MisbehavingLinter, bases: Mapping[str, BaseFiles]) -> None:
    assert linted.outcome("", bases["whole"]) == "accepted"


@pytest.mark.skipif(os.getuid() == 0, reason="root can read every file")
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, MODEL_CARD, "tokenizer.json", MANIFEST])
def test_an_unreadable_file_gives_a_verdict(name: str, bases: Mapping[str, BaseFiles]) -> None:
    assert run(Recipe("plain", ALL, (("closed", name),)), bases) in OUTCOMES


def test_a_path_that_is_not_a_folder_is_a_typed_error(
    tmp_path: Path, bases: Mapping[str, BaseFiles]
) -> None:
    for kind in ("nothing", "file", "pipe", "loop"):
        assert run(Recipe("plain", (), (("instead", kind),)), bases) == "error"
    with pytest.raises(AdapterError):
        AdapterFolder.open(tmp_path / "a\0b")


def test_every_variant_can_be_built() -> None:
    assert {name for name in HEALTHY if pristine(name, ())} == set(HEALTHY)


def test_unused_patterns_are_matched_once_for_all_rules(
    bases: Mapping[str, BaseFiles],
) -> None:
    step = ("put", CONFIG, "rank_pattern", "@patterns:17")
    # If every rule matched it again, it would exceed the budget of all patterns.
    assert run(Recipe("unsloth_regex", ("tokenizer",), (step,)), bases) == "accepted"
