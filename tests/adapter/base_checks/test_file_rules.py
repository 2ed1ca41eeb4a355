"""Tests of the rules on the base's files, weights and vocabulary."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.check_base import check_base
from phi3_lora_qa.adapter.finding import Severity
from tests.adapter.base_variants import (
    CONFIG,
    POINTER,
    TINY,
    copy_base,
    edit_json,
    findings_on,
    rules_on,
)
from tests.adapter.packing import pack
from tests.adapter.tiny_base import VOCABULARY, WORDS, base_tensors, tokenizer_files, write_base


def test_a_healthy_base_has_no_finding(tmp_path: Path) -> None:
    assert not findings_on(TINY, *BaseUse)
    assert not findings_on(write_base(tmp_path), *BaseUse)


def test_a_foreign_file_is_the_only_finding(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / "tokenizer.json").write_bytes(POINTER)
    (base / "chat_template.jinja").unlink()
    (found,) = findings_on(base, *BaseUse)
    assert (found.rule, found.severity) == ("basemodel-files", Severity.ERROR)
    assert (found.where, found.message) == ("tokenizer.json", "the file is a git-lfs pointer")
    assert "`git lfs pull`" in found.fix


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "intermediate_size"])
def test_weights_of_another_size_than_config_json_says_are_an_error(
    field: str, tmp_path: Path
) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, **{field: 512})
    (found,) = findings_on(base)
    assert (found.rule, found.severity) == ("basemodel-shapes", Severity.ERROR)
    assert "in config.json and" in found.message


def test_a_head_that_differs_from_the_table_it_is_said_to_be(tmp_path: Path) -> None:
    base = write_base(tmp_path, tie_word_embeddings=True)
    assert rules_on(base, *BaseUse) == {"basemodel-tied-head"}
    tensors = base_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (base / "model.safetensors").write_bytes(pack(tensors))
    assert not rules_on(base, *BaseUse)
    del tensors["lm_head.weight"]
    (base / "model.safetensors").write_bytes(pack(tensors))
    assert not rules_on(base, *BaseUse)


def test_a_base_without_a_tokenizer_cannot_be_run(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / "tokenizer.json").unlink()
    found = [f for f in findings_on(base, BaseUse.LOADING) if f.rule == "basemodel-tokenizer"]
    assert [f.severity for f in found] == [Severity.ERROR]
    assert "tokenizer.json or tokenizer.model" in found[0].message


@pytest.mark.parametrize("is_thorough", [True, False])
@pytest.mark.parametrize(("new", "last"), [(4, None), (5, VOCABULARY)])
def test_a_token_without_a_row_is_found(
    new: int, last: int | None, is_thorough: bool, tmp_path: Path
) -> None:
    base = write_base(tmp_path)
    extra = {f"<|new{number}|>": WORDS + 2 + number for number in range(new)}
    (base / "tokenizer.json").write_bytes(tokenizer_files(extra=extra)["tokenizer.json"])
    view = BaseView(base, is_thorough=is_thorough)
    found = [f.message for f in check_base(view).findings if f.rule == "basemodel-vocabulary"]
    wanted = f"it has the token id {last}, and the embedding table has {VOCABULARY} rows"
    assert found == ([wanted] if last else [])


@pytest.mark.parametrize("layers", [3, 5])
def test_another_number_of_layers_is_found(layers: int, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, num_hidden_layers=layers)
    (found,) = findings_on(base)
    assert (found.rule, found.severity) == ("basemodel-shapes", Severity.ERROR)
    assert f"config.json has {layers} layers, and the weights have 4" in found.message


@pytest.mark.parametrize("layers", [0, -4, "4", 10**9, None])
def test_a_number_of_layers_that_cannot_be_is_found(layers: object, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, num_hidden_layers=layers)
    (found,) = findings_on(base)
    assert f"num_hidden_layers is {layers!r}" in found.message
