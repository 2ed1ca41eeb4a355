"""Tests of the rules that compare the tokenizer's files with the base's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.lint import LintReport, Severity
from tests.adapter.adapters import plain, report_on
from tests.adapter.packing import pieces_file
from tests.adapter.tiny_base import VOCABULARY, WORDS, added_token, tokenizer_files, write_base

Change = Callable[[dict[str, Any], dict[str, Any]], object]

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
DECODER = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}


def framed(*, ids: list[int], after: bool = False) -> dict[str, Any]:
    """A post-processor that puts tokens before or after a text."""
    special, text = {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A"}}
    single = [text, special] if after else [special, text]
    table = {"x": {"id": "x", "ids": ids, "tokens": ["x"]}}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": table}


def base_files(layout: str = "new") -> dict[str, bytes]:
    """A base's tokenizer as tokenizers writes it now, or as it did when Phi-3 came out."""
    files = tokenizer_files()
    content, settings = (json.loads(files[n]) for n in ("tokenizer.json", "tokenizer_config.json"))
    content["model"]["vocab"] = {f"word{n}": n for n in range(5, WORDS)}
    content["model"]["vocab"] |= {"<unk>": 0, "<s>": 1, "w": 2, "o": 3, "wo": 4}
    content["model"] |= {"merges": [["w", "o"]], "unk_token": "<unk>", "byte_fallback": True}
    content["added_tokens"] = [
        added_token(0, "<unk>"),
        added_token(1, "<s>"),
        added_token(WORDS, "<|endoftext|>"),
        added_token(WORDS + 1, "<|end|>", rstrip=True),
    ]
    content |= {"normalizer": None, "pre_tokenizer": METASPACE, "post_processor": None}
    content["decoder"] = DECODER
    settings |= {"bos_token": "<s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    if layout == "old":
        content["model"] |= {"merges": ["w o"], "ignore_merges": False, "dropout": None}
        content["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁",
            "prepend_scheme": "first", "split": False,
        }  # fmt: skip
        content["post_processor"] = framed(ids=[]) | {"single": [{"Sequence": {"id": "A"}}]}
        del content["version"]
    return {
        "tokenizer.json": json.dumps(content).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_base(tmp_path_factory.mktemp("base"))
    for name, content in base_files().items():
        (folder / name).write_bytes(content)
    return folder


def report(change: Change, folder: Path, base: Path, **files: bytes) -> LintReport:
    adapter = plain()
    adapter.files = base_files()
    content = {name: json.loads(text) for name, text in adapter.files.items()}
    change(content["tokenizer.json"], content["tokenizer_config.json"])
    adapter.files = {name: json.dumps(value).encode() for name, value in content.items()}
    adapter.files |= {name.replace("__", "."): text for name, text in files.items()}
    return report_on(adapter, folder, base)


def rules_of(found: LintReport, severity: Severity) -> set[str]:
    return {f.rule for f in found.findings if f.severity is severity}


def part(name: str, value: Any) -> Change:
    return lambda content, settings: content.update({name: value})


def model(**fields: Any) -> Change:
    return lambda content, settings: content["model"].update(fields)


def setting(**fields: Any) -> Change:
    return lambda content, settings: settings.update(fields)


def flag(**fields: bool) -> Change:
    return lambda content, settings: content["added_tokens"][3].update(fields)


def swapped(content: dict[str, Any], settings: dict[str, Any]) -> None:
    words = content["model"]["vocab"]
    words["word7"], words["word8"] = words["word8"], words["word7"]


def cut(content: dict[str, Any], settings: dict[str, Any]) -> None:
    token = content["added_tokens"].pop()
    content["model"]["vocab"][token["content"]] = token["id"]


ERRORS: dict[str, tuple[str, Change]] = {
    "no merges": ("tokenizer-pieces", model(merges=[])),
    "another model": ("tokenizer-pieces", model(type="WordLevel")),
    "no byte fallback": ("tokenizer-pieces", model(byte_fallback=False)),
    "dropout": ("tokenizer-pieces", model(dropout=0.5)),
    "an end-of-word suffix": ("tokenizer-pieces", model(end_of_word_suffix="</w>")),
    "merges ignored": ("tokenizer-pieces", model(ignore_merges=True)),
    "lower case": ("tokenizer-pieces", part("normalizer", {"type": "Lowercase"})),
    "a word replaced with another": (
        "tokenizer-pieces",
        part("normalizer", REPLACE | {"pattern": {"String": "order"}, "content": "cancel"}),
    ),
    "spaces and lower case": (
        "tokenizer-pieces",
        part("normalizer", {"type": "Sequence", "normalizers": [REPLACE, {"type": "Lowercase"}]}),
    ),
    "no pre-tokenizer": ("tokenizer-pieces", part("pre_tokenizer", None)),
    "another character for spaces": (
        "tokenizer-pieces", part("pre_tokenizer", METASPACE | {"replacement": "e"}),
    ),
    "split by digits": (
        "tokenizer-pieces",
        part(
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [METASPACE, {"type": "Digits", "individual_digits": True}],
            },
        ),
    ),
    "an end after every text": (
        "tokenizer-pieces", part("post_processor", framed(ids=[WORDS], after=True)),
    ),
    "an end before every text": ("tokenizer-pieces", part("post_processor", framed(ids=[WORDS]))),
    "lstrip": ("tokenizer-pieces", flag(lstrip=True)),
    "rstrip": ("tokenizer-pieces", flag(rstrip=False)),
    "normalized": ("tokenizer-pieces", flag(normalized=True)),
    "single_word": ("tokenizer-pieces", flag(single_word=True)),
    "flags in the settings": (
        "tokenizer-pieces",
        setting(added_tokens_decoder={str(WORDS + 1): {"content": "<|end|>", "special": True}}),
    ),
    "a special token that is split": ("tokenizer-pieces", cut),
    "two words exchanged": ("tokenizer-vocabulary", swapped),
    "a missing word": (
        "tokenizer-vocabulary", lambda content, settings: content["model"]["vocab"].pop("word9"),
    ),
    "an ordinary word as the end": ("tokenizer-special-tokens", setting(eos_token="word9")),
    "an ordinary word as padding": ("tokenizer-special-tokens", setting(pad_token="word9")),
    "an ordinary word as an extra special token": (
        "tokenizer-special-tokens", setting(extra_special_tokens=["word9"]),
    ),
    "an ordinary word under a name": (
        "tokenizer-special-tokens", setting(image_token={"content": "word9"}),
    ),
    "an ordinary word as an added token": (
        "tokenizer-special-tokens",
        lambda content, settings: content["added_tokens"].append(added_token(9, "word9")),
    ),
    "no end": ("tokenizer-special-tokens", setting(eos_token=None)),
    "no entry for the end": (
        "tokenizer-special-tokens", lambda content, settings: settings.pop("eos_token"),
    ),
    "special tokens split": ("tokenizer-special-tokens", setting(split_special_tokens=True)),
    "another class": ("tokenizer-class", setting(tokenizer_class="BertTokenizer")),
    "an unknown class": ("tokenizer-class", setting(tokenizer_class="EvilTokenizer")),
    "a class that is a number": ("tokenizer-class", setting(tokenizer_class=3)),
    "tokens beyond the table": (
        "tokenizer-added-tokens",
        lambda content, settings: content["added_tokens"].extend(
            added_token(WORDS + 2 + n, f"<{n}>") for n in range(VOCABULARY - WORDS - 1)
        ),
    ),
    "special tokens beyond the table": (
        "tokenizer-added-tokens", setting(extra_special_tokens=[f"<{n}>" for n in range(9)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_a_change_that_changes_ids_is_rejected(name: str, tmp_path: Path, base: Path) -> None:
    rule, change = ERRORS[name]
    found = report(change, tmp_path, base)
    assert rule in rules_of(found, Severity.ERROR)


def test_a_token_of_added_tokens_json_beyond_the_table_is_rejected(
    tmp_path: Path, base: Path
) -> None:
    files = {"added_tokens__json": json.dumps({"<|x|>": 99_999}).encode()}
    found = report(lambda *_: None, tmp_path, base, **files)
    assert "tokenizer-added-tokens" in rules_of(found, Severity.ERROR)


def test_special_tokens_map_precedes_older_settings(tmp_path: Path, base: Path) -> None:
    files = {"special_tokens_map__json": json.dumps({"eos_token": "word9"}).encode()}
    found = report(lambda *_: None, tmp_path / "a", base, **files)
    assert "tokenizer-special-tokens" in rules_of(found, Severity.ERROR)
    newer = setting(added_tokens_decoder={})
    assert report(newer, tmp_path / "b", base, **files).findings == ()


WARNINGS: dict[str, tuple[str, Change]] = {
    "another decoder": ("tokenizer-decoding", part("decoder", None)),
    "truncation": (
        "tokenizer-length",
        part("truncation", {"max_length": 1, "direction": "Right", "stride": 0}),
    ),
    "padding": (
        "tokenizer-length",
        part("padding", {"strategy": "BatchLongest", "pad_token": "<unk>"}),
    ),
    "a start before every text": ("tokenizer-decoding", part("post_processor", framed(ids=[1]))),
    "spaces by a normalizer": (
        "tokenizer-decoding",
        lambda content, settings: content.update(
            normalizer={"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, pre_tokenizer=None
        ),
    ),
    "a space before every piece": (
        "tokenizer-decoding", part("pre_tokenizer", METASPACE | {"prepend_scheme": "always"}),
    ),
    "another end among the base's": (
        "tokenizer-special-tokens-differ", setting(eos_token="<|endoftext|>"),
    ),
    "no start": ("tokenizer-special-tokens-differ", setting(bos_token=None)),
    "an end after every text, for some": (
        "tokenizer-special-tokens-differ", setting(add_eos_token=True),
    ),
    "a token on a spare row": (
        "tokenizer-untrained-tokens",
        lambda content, settings: content["added_tokens"].append(
            added_token(WORDS + 2, "<|tool|>")
        ),
    ),
    "a start on a spare row": ("tokenizer-untrained-tokens", setting(bos_token="<|start|>")),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_a_change_that_a_healthy_adapter_may_have_is_a_warning(
    name: str, tmp_path: Path, base: Path
) -> None:
    rule, change = WARNINGS[name]
    found = report(change, tmp_path, base)
    assert rule in rules_of(found, Severity.WARNING)
    assert found.accepted


def test_a_special_token_that_appears_in_answers_is_a_warning(tmp_path: Path) -> None:
    own = write_base(tmp_path / "base")
    for name, text in base_files().items():
        (own / name).write_bytes(text.replace(b'"eos_token": "<|end|>"', b'"eos_token": "<unk>"'))
    change: Change = lambda content, settings: (  # noqa: E731
        content["added_tokens"][3].update(special=False), settings.update(eos_token="<unk>")
    )  # fmt: skip
    found = report(change, tmp_path / "a", own)
    assert rules_of(found, Severity.WARNING) == {"tokenizer-decoding"}
    assert "is shown in answers" in found.findings[0].message


HARMLESS: dict[str, Change] = {
    "nothing": lambda content, settings: None,
    "padding with another token of the base": setting(pad_token="<unk>"),
    "padding with a new token": setting(pad_token="[PAD]"),
    "the class without a name": setting(tokenizer_class="PreTrainedTokenizerFast"),
    "the class of transformers 5": setting(tokenizer_class="TokenizersBackend"),
    "no class": lambda content, settings: settings.pop("tokenizer_class"),
    "the same special tokens again": setting(additional_special_tokens=["<|end|>", "<s>"]),
    "special tokens as objects": setting(
        eos_token={"__type": "AddedToken", "content": "<|end|>", "special": True}
    ),
    "padding on the other side": setting(padding_side="right", model_max_length=512),
    "an empty affix": model(continuing_subword_prefix="", end_of_word_suffix="", dropout=0.0),
    "offsets": part("post_processor", {"type": "ByteLevel", "trim_offsets": False}),
    "a frame around nothing": part(
        "post_processor", {"type": "Sequence", "processors": [{"type": "ByteLevel"}]}
    ),
    "a sequence of one": part("pre_tokenizer", {"type": "Sequence", "pretokenizers": [METASPACE]}),
    "a sequence of none": part("normalizer", {"type": "Sequence", "normalizers": []}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_change_without_an_effect_is_accepted(name: str, tmp_path: Path, base: Path) -> None:
    assert report(HARMLESS[name], tmp_path, base).findings == ()


@pytest.mark.parametrize("older", ["adapter", "base"])
def test_the_format_of_an_older_version_is_the_same_tokenizer(older: str, tmp_path: Path) -> None:
    layouts = {"adapter": "new", "base": "new"} | {older: "old"}
    own = write_base(tmp_path / "base")
    for name, content in base_files(layouts["base"]).items():
        (own / name).write_bytes(content)
    adapter = plain()
    adapter.files = base_files(layouts["adapter"])
    assert report_on(adapter, tmp_path / "a", own).findings == ()


@pytest.mark.parametrize("how", ["rows", "whole"])
def test_tokens_on_spare_rows_that_are_trained_are_accepted(
    how: str, tmp_path: Path, base: Path
) -> None:
    adapter = plain()
    adapter.files = {**base_files(), "added_tokens.json": b'{"<|tool|>": %d}' % (WORDS + 2)}
    untrained = report_on(adapter, tmp_path / "untrained", base)
    assert {f.rule for f in untrained.findings} == {"tokenizer-untrained-tokens"}
    if how == "rows":
        adapter.config["trainable_token_indices"] = [WORDS + 2]
    else:
        adapter.config["modules_to_save"] = ["embed_tokens"]
    trained = report_on(adapter, tmp_path / "trained", base)
    assert "tokenizer-untrained-tokens" not in {f.rule for f in trained.findings}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pieces, rest: (pieces, rest), ""),
        (lambda pieces, rest: ([*pieces, ("more", -9.0, 1)], rest), ""),
        (lambda pieces, rest: ([*pieces[:2], *pieces[:1:-1]], rest), "scores"),
        (lambda pieces, rest: (pieces, b"\x1a\x02\x0a\x00"), "normalization or training"),
        (lambda pieces, rest: (pieces, b""), "normalization or training"),
    ],
    ids=["nothing", "one more", "other scores", "another normalizer", "no normalizer"],
)
def test_a_sentencepiece_model_next_to_the_vocabulary_is_compared_too(
    change: Callable[[Any, bytes], tuple[Any, bytes]], words: str, tmp_path: Path
) -> None:
    """llama.cpp's converter reads it, and older versions of transformers."""
    own = write_base(tmp_path / "base")
    pieces = [("word0", 0.0, 1), ("word1", -1.0, 1), ("word2", -2.0, 1), ("word3", -3.0, 1)]
    rest = b"\x1a\x02\x0a\x01"
    (own / "tokenizer.model").write_bytes(pieces_file(pieces) + rest)
    adapter = plain()
    changed, after = change(pieces, rest)
    adapter.files = {**tokenizer_files(), "tokenizer.model": pieces_file(changed) + after}
    messages = [
        f.message
        for f in report_on(adapter, tmp_path / "a", own).findings
        if f.rule == "tokenizer-pieces"
    ]
    assert [words in message for message in messages] == ([True] if words else [])


@pytest.mark.parametrize(
    ("pieces", "rule"),
    [
        ([("word0", 0.0, 1), ("word1", -1.0, 1)], ""),
        ([("word0", 0.0, 1), ("word1", -1.0, 1), ("<|tool|>", 0.0, 4)], ""),
        ([("word0", 0.0, 1), ("word1", -2.0, 1)], "tokenizer-pieces"),
        ([("word1", 0.0, 1), ("word0", -1.0, 1)], "tokenizer-vocabulary"),
    ],
)
def test_a_sentencepiece_model_alone_is_compared_with_the_bases(
    pieces: list[tuple[str, float, int]], rule: str, tmp_path: Path
) -> None:
    own = write_base(tmp_path / "base")
    (own / "tokenizer.json").unlink()
    ends = [("<|end|>", 0.0, 4), ("<|endoftext|>", 0.0, 4)]
    base_pieces = [*ends, ("word0", 0.0, 1), ("word1", -1.0, 1)]
    (own / "tokenizer.model").write_bytes(pieces_file(base_pieces))
    adapter = plain()
    adapter.files = {**tokenizer_files(), "tokenizer.model": pieces_file([*ends, *pieces])}
    del adapter.files["tokenizer.json"]
    found = rules_of(report_on(adapter, tmp_path / "a", own), Severity.ERROR)
    assert (rule in found) if rule else not found
