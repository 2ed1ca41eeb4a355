"""Each loader gives a tokenizer with the same interface."""

from pathlib import Path

from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import (
    SENTENCEPIECE,
    TOKENIZERS,
    TRANSFORMERS,
    LoadedTokenizer,
    blank_variants,
    load_all,
    load_with_tokenizers,
    same_files,
    steps_of,
)
from phi3_lora_qa.models.quiet import quiet
from tests.adapter.poisoned_tokenizers import TINY, copied, old_base


def loaded(folder: Path) -> dict[str, LoadedTokenizer]:
    errors: dict[str, str] = {}
    with quiet():
        found = load_all(str(folder), errors)
    assert errors == {}
    return found


def test_both_loaders_of_the_tiny_base_encode_and_decode_equally() -> None:
    found = loaded(TINY)
    assert found.keys() == {TRANSFORMERS, TOKENIZERS}
    one, other = found.values()
    texts = ["Hello World", "<|user|>x"]
    assert one.ids(texts) == other.ids(texts)
    assert one.decode(one.ids(texts)[0]).strip() == "Hello World"
    assert one.vocabulary == other.vocabulary
    assert one.added.keys() == other.added.keys()


def test_the_ids_of_the_last_texts_are_cached() -> None:
    calls = []

    def encode(texts: list[str], with_special: bool) -> list[list[int]]:
        calls.append(texts)
        return [[len(text)] for text in texts]

    tokenizer = LoadedTokenizer(encode, str, {}, {})
    texts = ["a"]
    assert tokenizer.ids(texts) == tokenizer.ids(texts) == [[1]]
    assert len(calls) == 1


def test_a_loader_that_fails_is_reported_and_the_others_run(tmp_path: Path) -> None:
    folder = copied(TINY, tmp_path / "folder")
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer.model").write_bytes(b"x")
    errors: dict[str, str] = {}
    with quiet():
        assert load_all(str(folder), errors) == {}
    assert errors.keys() == {TRANSFORMERS, TOKENIZERS, SENTENCEPIECE}


def test_a_loader_can_be_skipped() -> None:
    with quiet():
        assert load_all(str(TINY), {}, [TRANSFORMERS]).keys() == {TOKENIZERS}


def test_identical_files_are_listed(tmp_path: Path) -> None:
    folder = copied(TINY, tmp_path / "folder")
    job = {"base": str(TINY), "folder": str(folder)}
    assert same_files(job) == [TOKENIZERS]
    (folder / TOKENIZERS).write_text("{}")
    assert same_files(job) == []


def test_the_steps_are_known_without_the_model() -> None:
    tokenizer = load_with_tokenizers((TINY / TOKENIZERS).read_text())
    steps = steps_of(tokenizer)
    assert "model" not in steps
    assert {"normalizer", "pre_tokenizer", "post_processor", "decoder"} <= steps.keys()
    assert steps_of(LoadedTokenizer(lambda texts, flag: [], str, {}, {})) == {}


def test_variants_of_blanks_exist_for_tokenizers_of_sentencepiece(tmp_path: Path) -> None:
    variants = blank_variants(loaded(old_base(tmp_path / "old")))
    assert variants.keys() == {"a normalizer", "Metaspace, first", "Metaspace, always"}
    variant = variants["Metaspace, first"]()
    assert variant is not None
    assert steps_of(variant)["pre_tokenizer"]["prepend_scheme"] == "first"
    assert blank_variants({}) == {}


def test_a_table_of_tiktoken_is_not_loaded_with_sentencepiece(tmp_path: Path) -> None:
    folder = copied(TINY, tmp_path / "folder")
    (folder / SENTENCEPIECE).write_bytes(b"YQ== 0\nYg== 1\n")
    assert SENTENCEPIECE not in loaded(folder)
