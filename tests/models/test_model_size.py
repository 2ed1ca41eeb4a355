"""The size of a base from its headers is the size of the loaded model."""

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.model_size import model_size, token_bytes
from phi3_lora_qa.models.registry import bundled, resolve_base


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_that_of_the_loaded_model(dtype: str) -> None:
    model = load_base(resolve_base("tiny"), dtype).model
    size = model_size(BaseFiles.open(bundled("tiny") / "base"), dtype)
    assert size.weights == sum(parameter.nbytes for parameter in model.parameters())
    config = model.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    assert size.token == 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize


def test_quantized_layers_take_a_part_of_it_and_the_tables_do_not() -> None:
    base = BaseFiles.open(bundled("tiny") / "base")
    tensors = {name: info.size for file in base.files for name, info in file.tensors.items()}
    linear = sum(size for name, size in tensors.items() if "_proj." in name)
    others = sum(tensors.values()) - linear
    assert model_size(base, "bfloat16", "int8").weights == linear + 2 * others
    assert model_size(base, "bfloat16", "nf4").weights == int(linear * (0.5 + 1 / 64)) + 2 * others


@pytest.mark.parametrize("fields", [{}, {"num_hidden_layers": "x"}, {"num_attention_heads": 0}])
def test_a_config_without_sizes_has_an_unknown_cache(fields: dict[str, object]) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
    assert token_bytes({**sizes, **fields}, 4) == (2 * 2 * 4 * 4 if not fields else 0)
