"""The linter's verdict on a tokenizer agrees with what transformers loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import TOKENIZER_FILES, AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import read_tokenizer
from phi3_lora_qa.models.quiet import quiet
from tests.adapter.adapters import UNTRIED, base_config, plain
from tests.adapter.poisoned_tokenizers import TINY, old_base

TEXTS = (
    "Hello World, order 17 please",
    "<|user|>\n Where do 17 Grey herons nest?<|end|>\n<|assistant|>\nIn tall trees.<|end|>",
    "  two  blanks, a tab\tand é, <s>x</s> [PAD] <tool>",
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"new": TINY, "old": old_base(tmp_path_factory.mktemp("bases") / "old")}


def load(folder: Path) -> Any:
    with quiet():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)


def lint_with_base(folder: Path, base: Path) -> LintReport:
    return lint(AdapterFolder.open(folder), BaseFiles.open(base))


def errors(report: LintReport) -> list[tuple[str, str]]:
    return [
        (f.rule, f.message)
        for f in report.findings
        if f.severity is Severity.ERROR and f.rule.startswith("tokenizer")
    ]


def truncate(tokenizer: Any) -> None:
    tokenizer("x", truncation=True, max_length=5, padding="max_length")


def pad_with(token: str) -> Callable[[Any], object]:
    return lambda tokenizer: tokenizer.add_special_tokens({"pad_token": token})


def set_attributes(**values: object) -> Callable[[Any], object]:
    def apply(tokenizer: Any) -> None:
        for name, value in values.items():
            setattr(tokenizer, name, value)

    return apply


TRAINED = {
    "unchanged": lambda tokenizer: None,
    "with a new pad token": pad_with("[PAD]"),
    "with <unk> as padding": pad_with("<unk>"),
    "truncated and padded": truncate,
    "ended by <|end|>": set_attributes(eos_token="<|end|>"),
    "padded right": set_attributes(padding_side="right", model_max_length=77),
    "with a new word": lambda tokenizer: tokenizer.add_tokens(["<tool>"]),
    "with new special tokens": lambda tokenizer: tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<tool>", "</tool>"]}
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["new", "old"])
@pytest.mark.parametrize("in_a_file", [True, False])
@pytest.mark.parametrize("how", TRAINED)
def test_a_tokenizer_saved_after_training_is_accepted(
    how: str, in_a_file: bool, layout: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load(bases[layout])
    TRAINED[how](tokenizer)
    folder = plain().save(tmp_path)
    tokenizer.save_pretrained(folder, save_jinja_files=in_a_file)
    # Phi-3's repositories have the layout of the old base, which loads differently from the new.
    for base in (bases[layout], bases["old"]) if in_a_file else ():
        assert errors(lint_with_base(folder, base)) == []
    assert errors(lint(AdapterFolder.open(folder))) == []


@pytest.mark.parametrize("layout", ["new", "old"])
def test_a_copy_of_the_bases_files_is_accepted(
    layout: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = plain().save(tmp_path)
    for name in TOKENIZER_FILES:
        if (bases[layout] / name).exists():
            shutil.copy(bases[layout] / name, folder)
    for base in (bases[layout], bases["old"]):
        assert errors(lint_with_base(folder, base)) == []


@pytest.mark.parametrize("layout", ["new", "old"])
def test_tokens_and_special_tokens_equal_those_of_transformers(
    layout: str, bases: dict[str, Path]
) -> None:
    theirs, found = load(bases[layout]), read_tokenizer(BaseFiles.open(bases[layout]))
    assert found
    ours = found[0]
    assert ours.tokens == theirs.get_vocab()
    assert {name: token for name, token in ours.special.items() if token} == {
        name: str(token) for name, token in theirs.special_tokens_map.items()
    }
    for number, token in theirs.added_tokens_decoder.items():
        entry = ours.added[token.content]
        assert entry.token_id == number
        assert entry.flags == (token.single_word, token.lstrip, token.rstrip, token.normalized)


WORDS = st.sampled_from(["e", "▁the", "<|end|>", "<|user|>", "<unk>", "[PAD]", "<tool>", "<s>"])
FLAGS = st.fixed_dictionaries({name: st.booleans() for name in ("lstrip", "rstrip", "normalized")})
STEPS = st.sampled_from(
    [
        None,
        {"type": "Lowercase"},
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"String": "order"}, "content": "cancel"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation"},
        {"type": "NoSuchStep"},
    ]
)
CHANGES = st.one_of(
    st.tuples(st.sampled_from(["eos_token", "bos_token", "pad_token", "a_token"]), WORDS),
    st.tuples(st.just("extra_special_tokens"), st.lists(WORDS, max_size=2)),
    st.tuples(st.just("table"), WORDS, st.integers(0, 770), FLAGS),
    st.tuples(st.just("map"), st.sampled_from(["eos_token", "unk_token"]), WORDS),
    st.tuples(st.just("added"), WORDS, st.integers(0, 770)),
    st.tuples(st.just("flags"), st.integers(0, 13), FLAGS),
    st.tuples(st.just("list"), WORDS, st.integers(0, 770)),
    st.tuples(st.sampled_from(["normalizer", "pre_tokenizer"]), STEPS),
    st.tuples(st.just("merges"), st.sampled_from(["reversed", "texts", "fewer"])),
)


def change(folder: Path, *steps: tuple[Any, ...]) -> None:
    """Write the tiny base's tokenizer into the folder, with changes."""
    content = json.loads((TINY / "tokenizer.json").read_text())
    own = json.loads((TINY / "tokenizer_config.json").read_text())
    others: dict[str, dict[str, Any]] = {}
    for step in steps:
        match step:
            case ("table", word, number, flags):
                table = own.setdefault("added_tokens_decoder", {})
                table[str(number)] = {
                    "content": word,
                    "single_word": False,
                    "special": True,
                    **flags,
                }
            case ("map", name, word):
                others.setdefault("special_tokens_map.json", {})[name] = word
            case ("added", word, number):
                others.setdefault("added_tokens.json", {})[word] = number
            case ("flags", place, flags):
                content["added_tokens"][place] |= flags
            case ("list", word, number):
                plain_flags = content["added_tokens"][3]
                content["added_tokens"].append({**plain_flags, "id": number, "content": word})
            case ("merges", "texts"):
                merges = content["model"]["merges"]
                content["model"]["merges"] = [
                    m if isinstance(m, str) else " ".join(m) for m in merges
                ]
            case ("merges", how):
                merges = content["model"]["merges"]
                content["model"]["merges"] = merges[::-1] if how == "reversed" else merges[:-5]
            case (("normalizer" | "pre_tokenizer") as name, value):
                content[name] = value
            case (name, value):
                own[name] = value
    files = {"tokenizer.json": content, "tokenizer_config.json": own, **others}
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    shutil.copy(TINY / "chat_template.jinja", folder)


@pytest.mark.slow
@settings(derandomize=True, database=None, deadline=None, max_examples=120)
@given(st.lists(CHANGES, min_size=1, max_size=2))
def test_an_accepted_tokenizer_gives_the_bases_ids(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    (folder / "adapter_config.json").write_text(json.dumps(base_config()))
    change(folder, *steps)
    report = lint(AdapterFolder.open(folder), BaseFiles.open(TINY), UNTRIED)
    if errors(report):
        return
    theirs, ours = load(TINY), load(folder)
    versions = {"normalizer", "pre_tokenizer"} & {f.message.split()[1] for f in report.findings}
    new = set(ours.get_vocab()) - set(theirs.get_vocab())
    for text in TEXTS:
        if not versions and not any(token in text for token in new):
            assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert max(ours.get_vocab().values()) < 768
    assert ours.eos_token in theirs.get_added_vocab()
