"""What an adapter says is read from values of any type, and from names that can be corrected."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.adapter_words import AdapterWords, read_words
from phi3_lora_qa.adapter.identity.module_layout import Layout
from phi3_lora_qa.adapter.tensor_names import parse_keys
from tests.adapter.adapters import P, plain


def words(folder: Path, config: dict[str, object], names: list[str]) -> AdapterWords:
    keys, bad = parse_keys(names)
    return read_words(AdapterFolder.open(folder), config, keys.values(), bad, {})


@pytest.mark.parametrize("value", [None, 5, [], {"a": 1}, True])
def test_values_of_other_types_say_nothing(value: object, tmp_path: Path) -> None:
    names = ("base_model_name_or_path", "auto_mapping", "task_type")
    found = words(tmp_path, dict.fromkeys(names, value), [])
    assert (found.base_id, found.library, found.class_name, found.task_type) == ("", "", "", "")


def test_names_without_their_prefix_count_under_the_corrected_name(tmp_path: Path) -> None:
    found = words(tmp_path, {}, [name.removeprefix(P) for name in plain().tensors])
    assert found.layout.layout is Layout.FUSED
    assert found.layers == 2


def test_a_tokenizer_with_phis_chat_tokens_is_recognised(tmp_path: Path) -> None:
    assert not words(tmp_path, {}, []).has_phi_tokenizer
    (tmp_path / "tokenizer_config.json").write_text('{"x": ["<|assistant|>", "<|end|>"]}')
    assert words(tmp_path, {}, []).has_phi_tokenizer
