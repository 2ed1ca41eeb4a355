"""Comparison of tokenizers, in this process and in the bounded child."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.bounded_process import Limits
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, lint
from phi3_lora_qa.adapter.tokenizer import tokenizer_behaviour, tokenizer_behaviour_child
from phi3_lora_qa.adapter.tokenizer.probe_texts import TEXTS
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import compare_tokenizers
from phi3_lora_qa.adapter.tokenizer.tokenizer_comparison import (
    compare_folders,
    has_pieces_alone,
    is_marker,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import LoadedTokenizer, load_all
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.quiet import quiet
from tests.adapter.adapters import plain
from tests.adapter.poisoned_tokenizers import (
    HARMLESS,
    POISON,
    TINY,
    Change,
    config,
    file,
    normalizer,
    replacing,
    setting,
    token,
)
from tests.adapter.test_tokenizer_transformers import old_base

# ruff: noqa: RUF001 - tokens of other models contain such characters

OTHERS = ("config.json", "generation_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"new": TINY, "old": old_base(tmp_path_factory.mktemp("bases") / "old")}


@dataclass(frozen=True)
class Base:
    """A base with its tokenizers, which the child loads again for each folder."""

    path: Path
    bare: Path
    tokenizers: dict[str, LoadedTokenizer]


@pytest.fixture(scope="module")
def loaded(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    found = {}
    for layout, path in bases.items():
        bare = copied(path, tmp_path_factory.mktemp("bare") / layout)
        with quiet():
            found[layout] = Base(path, bare, load_all(str(path), {}))
    return found


def copied(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(*OTHERS))
    return folder


def compared_with(folder: Path, base: Base) -> dict[str, Any]:
    places = {"folder": str(folder), "base": str(base.path), "bare": str(base.bare)}
    with quiet():
        return compare_folders({**places, "texts": list(TEXTS)}, base.tokenizers)


def is_refused(found: dict[str, Any]) -> bool:
    serious = [d for d in found["differences"] if d["kind"] != "whitespace"]
    return bool(serious or found["load_errors"] or found["new_words"])


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("poison", POISON)
def test_a_tokenizer_that_behaves_differently_is_found(
    poison: str,
    layout: str,
    loaded: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    POISON[poison](folder)
    assert is_refused(compared_with(folder, loaded[layout]))


@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("harmless", HARMLESS)
def test_a_tokenizer_that_behaves_the_same_passes(
    harmless: str,
    layout: str,
    loaded: dict[str, Base],
    bases: Any,
    tmp_path: Path,
) -> None:
    folder = copied(bases[layout], tmp_path / "folder")
    HARMLESS[harmless](folder)
    found = compared_with(folder, loaded[layout])
    assert not is_refused(found), found


def test_variants_of_the_bases_blanks_are_reported(
    loaded: dict[str, Base], bases: Any, tmp_path: Path
) -> None:
    """Without config.json, transformers 5 loads a LlamaTokenizer from Phi-3's files."""
    folder = copied(bases["old"], tmp_path / "folder")
    found = compared_with(folder, loaded["old"])
    assert found["matched_variants"] == {"transformers": "no config.json"}
    part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    file(normalizer=None, pre_tokenizer=part)(folder)
    found = compared_with(folder, loaded["old"])
    assert found["matched_variants"].keys() == {"transformers", "tokenizer.json"}
    assert not is_refused(found)


@pytest.mark.parametrize(
    ("token", "marker"),
    [
        ("<|tool|>", True),
        ("<think>", True),
        ("</tool_call>", True),
        ("[PAD]", True),
        ("[/INST]", True),
        ("<<SYS>>", True),
        ("<｜begin▁of▁sentence｜>", True),
        ("▁<PRE>", True),
        ("<0x0A>", True),
        ("not", False),
        (" the", False),
        ("<b>", False),
        ("</TABLE>", False),
        ("<int>", False),
        ("<stdio.h>", False),
        ("<section>", False),
        ("[ERROR]", False),
        ("<||>", True),
        ("[AVAILABLE_TOOLS]", True),
        ("<>", False),
        ("[0]", False),
        ("[a]", False),
        ("(x)", False),
        ("< a >", False),
        ("a<|x|>", False),
        ("", False),
    ],
)
def test_a_marker_does_not_occur_in_ordinary_text(token: str, marker: bool) -> None:
    assert is_marker(token) is marker


def test_a_load_error_of_transformers_is_accepted_for_pieces_alone(tmp_path: Path) -> None:
    """transformers 4 saved slow tokenizers like this, and reads them with protobuf."""
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert has_pieces_alone(str(tmp_path))
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tekken.json"):
        (tmp_path / name).write_bytes(b"x")
        assert not has_pieces_alone(str(tmp_path))
        (tmp_path / name).unlink()
    (tmp_path / "tokenizer.model").unlink()
    assert not has_pieces_alone(str(tmp_path))


# In the child


def lint_with_tokenizer(
    base: Path, folder: Path, change: Change, **settings: Any
) -> dict[str, Severity]:
    adapter = plain()
    adapter.config |= settings
    copied(base, folder)
    change(folder)
    report = lint(AdapterFolder.open(adapter.save(folder)), BaseFiles.open(base))
    return {f.rule: f.severity for f in report.findings if f.rule.startswith("tokenizer")}


def test_different_behaviour_is_an_error(bases: dict[str, Path], tmp_path: Path) -> None:
    """The files alone do not show the difference."""
    found = lint_with_tokenizer(TINY, tmp_path / "a", setting(tokenizer_class="GPT2Tokenizer"))
    assert found == {"tokenizer-behaviour": Severity.ERROR}
    found = lint_with_tokenizer(bases["old"], tmp_path / "b", lambda folder: None)
    assert found == {"tokenizer-versions": Severity.WARNING}


def test_a_new_word_is_an_error_unless_it_was_trained(tmp_path: Path) -> None:
    found = lint_with_tokenizer(TINY, tmp_path / "a", token("refund"))
    assert found["tokenizer-words"] is Severity.ERROR
    found = lint_with_tokenizer(
        TINY, tmp_path / "b", token("refund"), trainable_token_indices={"embed_tokens": [752]}
    )
    assert "tokenizer-words" not in found
    assert found["tokenizer-words-trained"] is Severity.WARNING


def test_files_identical_to_the_bases_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(tokenizer_behaviour, "run_child", never)
    folder = AdapterFolder.open(plain().save(copied(TINY, tmp_path / "a")))
    assert compare_tokenizers(folder, BaseFiles.open(TINY)) is None
    empty = AdapterFolder.open(plain().save(tmp_path / "b"))
    assert compare_tokenizers(empty, BaseFiles.open(TINY)) is None
    config(model_type="gpt2")(tmp_path / "a")
    with pytest.raises(AssertionError):
        compare_tokenizers(AdapterFolder.open(tmp_path / "a"), BaseFiles.open(TINY))


def test_a_pattern_that_never_terminates_is_stopped(tmp_path: Path) -> None:
    """Oniguruma backtracks: the time doubles with each character."""
    pattern = {"Regex": "(a|a)+c"}
    folder = copied(TINY, tmp_path / "a")
    normalizer(replacing(pattern, "z"))(folder)
    comparison = compare_tokenizers(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert comparison
    assert comparison.error


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout.write('ready\\n'); x = bytearray(1 << 34)",
        "print('ready\\n{', end='')",
    ],
)
def test_a_child_that_ends_early_is_an_error_of_the_folder(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child.py"
    program.write_text(code)
    monkeypatch.setattr(tokenizer_behaviour_child, "__file__", str(program))
    folder = copied(TINY, tmp_path / "a")
    setting(x=1)(folder)
    comparison = compare_tokenizers(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert comparison
    assert "ten times the CPU time of the base's" in comparison.error


def test_a_base_whose_tokenizer_does_not_load_is_an_error_of_the_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    (base / "tokenizer.json").write_text("{")
    folder = AdapterFolder.open(plain().save(copied(TINY, tmp_path / "a")))
    with pytest.raises(
        BaseModelError, match="cannot load a tokenizer from .*download the base again"
    ):
        compare_tokenizers(folder, BaseFiles.open(base))


def test_the_child_leaves_nothing_and_opens_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    folder = copied(TINY, tmp_path / "a")
    setting(auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert compare_tokenizers(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert list(place.iterdir()) == []
    assert not (tmp_path / "ran").exists()


STARTS_NONE = """
import sys

def hook(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    ):
        raise PermissionError(event)

sys.addaudithook(hook)
with open({child!r}, encoding="utf-8") as file:
    code = file.read()
exec(compile(code, {child!r}, "exec"), {{"__name__": "__main__", "__file__": {child!r}}})
"""


def test_the_child_starts_no_process_and_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processes does not apply to root, so other users found what failed."""
    program = tmp_path / "child.py"
    program.write_text(STARTS_NONE.format(child=tokenizer_behaviour_child.__file__))
    monkeypatch.setattr(tokenizer_behaviour_child, "__file__", str(program))
    folder = copied(TINY, tmp_path / "a")
    setting(x=1)(folder)
    comparison = compare_tokenizers(AdapterFolder.open(plain().save(folder)), BaseFiles.open(TINY))
    assert comparison
    assert (comparison.error, comparison.differences, comparison.load_errors) == ("", (), {})


def test_the_limits_are_those_of_the_child() -> None:
    limits = tokenizer_behaviour.LIMITS
    assert isinstance(limits, Limits)
    assert limits.cpu_seconds == tokenizer_behaviour_child.CPU_SECONDS
    assert tokenizer_behaviour_child.allowance(0) < 5 < tokenizer_behaviour_child.allowance(1)
