"""Comparison of tokenizers in the bounded child process."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.bounded_process import Limits
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, lint
from phi3_lora_qa.adapter.tokenizer import tokenizer_behaviour, tokenizer_behaviour_child
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import compare_tokenizers
from phi3_lora_qa.errors import BaseModelError
from tests.adapter.adapters import plain
from tests.adapter.poisoned_tokenizers import (
    TINY,
    Change,
    config,
    copied,
    normalizer,
    old_base,
    replacing,
    setting,
    token,
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"new": TINY, "old": old_base(tmp_path_factory.mktemp("bases") / "old")}


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
        BaseModelError, match=r"cannot load a tokenizer from .*download the base again"
    ):
        compare_tokenizers(folder, BaseFiles.open(base))


def test_the_child_leaves_no_files_and_opens_no_socket(
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
