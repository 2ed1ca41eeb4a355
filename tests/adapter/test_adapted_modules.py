from dataclasses import dataclass

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.tensor_names import parse_keys


@dataclass(frozen=True)
class Sized:
    shape: tuple[int, ...]


def test_the_rank_is_the_first_size_of_a() -> None:
    tensors = {
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": Sized((4, 9)),
        "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight": Sized((7, 4)),
        "base_model.model.model.embed_tokens.lora_embedding_A": Sized((2, 99)),
        "base_model.model.lm_head.weight": Sized((99, 7)),
        "base_model.model.model.norm.lora_A.weight": Sized(()),
    }
    keys, _ = parse_keys(tensors)
    found = ranks_in_file(keys.values(), tensors)
    assert found == {"model.layers.0.mlp.down_proj": 4, "model.embed_tokens": 2}
