"""Tests of the rules about the tokenizer in the folder: it loads, is consistent, runs no code."""

import json
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import BaseModelError
from tests.adapter.adapters import plain, report_on
from tests.adapter.packing import pieces_file
from tests.adapter.tiny_base import WORDS, added_token, tokenizer_files, write_base

VOCABULARY, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def changed(name: str, **fields: Any) -> dict[str, bytes]:
    """Return the base's own files, with other values in one of them."""
    files = tokenizer_files()
    files[name] = json.dumps(json.loads(files[name]) | fields).encode()
    return files


def files_with(name: str, content: Any) -> dict[str, bytes]:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {**tokenizer_files(), name: text}


def rules(files: dict[str, bytes], folder: Path, base: Path | None) -> list[str]:
    adapter = plain()
    adapter.files = files
    found = dict.fromkeys(finding.rule for finding in report_on(adapter, folder, base).findings)
    return list(found)


def test_the_bases_own_tokenizer_is_accepted(tmp_path: Path, base: Path) -> None:
    for based in (None, base):
        assert rules(tokenizer_files(), tmp_path, based) == []


MODEL = json.loads(tokenizer_files()[VOCABULARY])["model"]
UNREADABLE: dict[str, dict[str, bytes]] = {
    "not JSON": {VOCABULARY: b"{"},
    "a list": {VOCABULARY: b"[]"},
    "another version": changed(VOCABULARY, version="9"),
    "another part": changed(VOCABULARY, magic={}),
    "no model": changed(VOCABULARY, model=None),
    "an unknown model": changed(VOCABULARY, model=MODEL | {"type": "Nope"}),
    "no words": changed(VOCABULARY, model=MODEL | {"vocab": {}}),
    "words without ids": changed(VOCABULARY, model=MODEL | {"vocab": {"a": "b"}}),
    "merges that are a text": changed(VOCABULARY, model=MODEL | {"merges": "x"}),
    "a merge of three": changed(VOCABULARY, model=MODEL | {"merges": [["a", "b", "c"]]}),
    "a merge of unknown tokens": changed(VOCABULARY, model=MODEL | {"merges": ["word1 word2"]}),
    "added tokens without ids": changed(VOCABULARY, added_tokens=[{"content": "x"}]),
    "a frame without ids": changed(
        VOCABULARY,
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]},
    ),
    "settings that are not JSON": {SETTINGS: b"{", VOCABULARY: tokenizer_files()[VOCABULARY]},
    "an end that is a number": changed(SETTINGS, eos_token=5),
    "a list as the table of tokens": changed(SETTINGS, added_tokens_decoder=[1]),
    "a table of tokens without ids": changed(SETTINGS, added_tokens_decoder={"x": {}}),
    "a template that is a number": changed(SETTINGS, chat_template=5),
    "templates without names": changed(SETTINGS, chat_template=[{"template": "x"}]),
    "a template that is not text": files_with("chat_template.jinja", b"\xff"),
    "many templates": changed(
        SETTINGS, chat_template=[{"name": str(n), "template": "x"} for n in range(99)]
    ),
    "a truncated special_tokens_map": files_with("special_tokens_map.json", b"{{{"),
    "truncated added_tokens": files_with("added_tokens.json", b"{{{"),
    "added_tokens without ids": files_with("added_tokens.json", {"<|end|>": "95"}),
    "a damaged model": files_with("tokenizer.model", b"\x90\x04garbage"),
    "a model cut short": files_with("tokenizer.model", pieces_file([("a", 0.0, 1)])[:-2]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("based", [False, True])
def test_a_file_that_cannot_be_read_is_rejected(
    name: str, based: bool, tmp_path: Path, base: Path
) -> None:
    assert rules(UNREADABLE[name], tmp_path, base if based else None) == ["tokenizer-unreadable"]


CONTRADICTIONS: dict[str, dict[str, bytes]] = {
    "listed with another id": changed(
        VOCABULARY, added_tokens=[added_token(3, "<|endoftext|>"), added_token(5, "<|end|>")]
    ),
    "listed twice": changed(
        VOCABULARY,
        added_tokens=[
            added_token(WORDS, "<|endoftext|>"),
            added_token(WORDS + 1, "<|end|>"),
            added_token(3, "<|end|>"),
        ],
    ),
    "moved in the settings": changed(
        SETTINGS, added_tokens_decoder={"5": {"content": "<|end|>", "special": True}}
    ),
    "another token's id": changed(
        SETTINGS, added_tokens_decoder={"5": {"content": "<|zz|>", "special": True}}
    ),
    "moved in added_tokens.json": files_with("added_tokens.json", {"<|end|>": 3}),
    "moved in tokenizer.model": files_with(
        "tokenizer.model", pieces_file([("word1", 0.0, 1), ("word0", 0.0, 1)])
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_files_that_contradict_each_other_are_rejected(name: str, tmp_path: Path) -> None:
    assert "tokenizer-contradiction" in rules(CONTRADICTIONS[name], tmp_path, None)


AGREEING: dict[str, dict[str, bytes]] = {
    "the table in the settings": changed(
        SETTINGS,
        added_tokens_decoder={
            str(WORDS + 1): {"content": "<|end|>", "special": True, "normalized": False}
        },
    ),
    "added_tokens.json": files_with("added_tokens.json", {"<|end|>": WORDS + 1}),
    "special_tokens_map.json": files_with(
        "special_tokens_map.json",
        {"eos_token": {"content": "<|end|>"}, "additional_special_tokens": ["<|end|>"]},
    ),
    "the beginning of a tokenizer.model": files_with(
        "tokenizer.model", pieces_file([("word0", 0.0, 1), ("word1", -1.0, 1)])
    ),
    "a tiktoken model": files_with("tokenizer.model", b"aGVsbG8= 0\nd29ybGQ= 1\n"),
}


@pytest.mark.parametrize("name", AGREEING)
@pytest.mark.parametrize("based", [False, True])
def test_older_files_that_agree_are_accepted(
    name: str, based: bool, tmp_path: Path, base: Path
) -> None:
    assert rules(AGREEING[name], tmp_path, base if based else None) == []


CODE: dict[str, dict[str, bytes]] = {
    "auto_map": changed(SETTINGS, auto_map={"AutoTokenizer": ["evil.Evil", None]}),
    "a file": changed(SETTINGS, tokenizer_file="../other/tokenizer.json"),
    "versions": changed(SETTINGS, fast_tokenizer_files=["tokenizer.4.0.0.json"]),
}


@pytest.mark.parametrize("name", CODE)
def test_code_and_other_files_are_rejected(name: str, tmp_path: Path) -> None:
    assert rules(CODE[name], tmp_path, None) == ["tokenizer-code"]


def test_code_that_the_base_names_too_is_accepted(tmp_path: Path) -> None:
    own = write_base(tmp_path / "base")
    (own / SETTINGS).write_bytes(CODE["auto_map"][SETTINGS])
    assert rules(CODE["auto_map"], tmp_path / "a", own) == []


def test_settings_without_a_vocabulary_are_rejected(tmp_path: Path) -> None:
    files = tokenizer_files()
    del files[VOCABULARY]
    assert rules(files, tmp_path / "a", None) == ["tokenizer-incomplete"]
    model = pieces_file([(f"word{number}", 0.0, 1) for number in range(WORDS)])
    assert rules({**files, "tokenizer.model": model}, tmp_path / "b", None) == []
    assert rules({**files, "vocab.json": b"{}"}, tmp_path / "c", None) == []


def test_a_stop_token_that_is_not_in_the_vocabulary_is_rejected(tmp_path: Path) -> None:
    files = changed(SETTINGS, eos_token="<|stop|>")
    assert rules(files, tmp_path, None) == ["tokenizer-stop-token"]


def test_a_missing_stop_token_is_rejected_with_and_without_a_base(
    tmp_path: Path, base: Path
) -> None:
    files = changed(SETTINGS, eos_token=None)
    assert rules(files, tmp_path / "a", None) == ["tokenizer-stop-token"]
    assert rules(files, tmp_path / "b", base) == ["tokenizer-special-tokens"]


@pytest.mark.parametrize(
    "setting",
    [
        {"padding_side": "up"},
        {"truncation_side": None},
        {"model_max_length": 0},
        {"model_max_length": 8},
        {"model_max_length": "4096"},
        {"model_max_length": True},
    ],
)
def test_settings_that_transformers_does_not_accept_are_rejected(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    assert rules(changed(SETTINGS, **setting), tmp_path, None) == ["tokenizer-settings"]


@pytest.mark.parametrize(
    "setting",
    [
        {"padding_side": "left", "truncation_side": "right"},
        {"model_max_length": None},
        {"model_max_length": 512},
        {"model_max_length": 1000000000000000019884624838656},
        {"model_max_length": 1e30},
    ],
)
def test_settings_that_transformers_writes_are_accepted(
    setting: dict[str, Any], tmp_path: Path, base: Path
) -> None:
    assert rules(changed(SETTINGS, **setting), tmp_path, base) == []


def test_a_template_whose_end_marker_is_not_a_token_is_a_warning(tmp_path: Path) -> None:
    chat = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    files = changed(SETTINGS, chat_template=chat)
    assert rules(files, tmp_path / "a", None) == ["tokenizer-template-end"]
    added = [added_token(WORDS + n, f"<|{t}|>") for n, t in enumerate(MARKERS)]
    files[VOCABULARY] = changed(VOCABULARY, added_tokens=added)[VOCABULARY]
    assert rules(files, tmp_path / "b", None) == []


MARKERS = ("endoftext", "end", "im_start", "im_end")


def test_removing_spaces_from_answers_is_a_warning(tmp_path: Path) -> None:
    own = write_base(tmp_path / "base")
    kept = changed(SETTINGS, clean_up_tokenization_spaces=False)
    (own / SETTINGS).write_bytes(kept[SETTINGS])
    taken = changed(SETTINGS, clean_up_tokenization_spaces=True)
    assert rules(kept, tmp_path / "a", own) == []
    assert rules(taken, tmp_path / "b", own) == ["tokenizer-decoding"]


def test_a_pad_token_that_ends_turns_is_a_warning_unless_the_base_has_it(
    tmp_path: Path, base: Path
) -> None:
    files = tokenizer_files(pad="<|end|>")
    assert rules(files, tmp_path / "a", base) == ["tokenizer-pad-is-stop"]
    assert rules(files, tmp_path / "b", None) == ["tokenizer-pad-is-stop"]
    own = write_base(tmp_path / "base")
    (own / SETTINGS).write_bytes(files[SETTINGS])
    assert rules(files, tmp_path / "c", own) == []


def test_a_damaged_tokenizer_of_the_base_is_not_a_finding(tmp_path: Path) -> None:
    for name in (SETTINGS, VOCABULARY):
        own = write_base(tmp_path / "base")
        (own / name).write_text("{")
        with pytest.raises(BaseModelError):
            rules(tokenizer_files(), tmp_path / "a", own)


def test_without_a_tokenizer_its_rules_are_unchecked(tmp_path: Path) -> None:
    report = report_on(plain(), tmp_path)
    assert ("tokenizer",) in {rule.missing for rule in report.unchecked}


def test_with_a_base_without_a_tokenizer_the_comparison_is_unchecked(tmp_path: Path) -> None:
    own = write_base(tmp_path / "base")
    for name in (SETTINGS, VOCABULARY):
        (own / name).unlink()
    adapter = plain()
    adapter.files = changed(VOCABULARY, normalizer={"type": "Lowercase"})
    report = report_on(adapter, tmp_path / "a", own)
    assert report.accepted
    assert "tokenizer-pieces" not in report.rules_run
    assert ("base's tokenizer",) in {rule.missing for rule in report.unchecked}
