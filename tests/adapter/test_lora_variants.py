from collections.abc import Callable
from typing import Any

import pytest

from phi3_lora_qa.adapter.lora_variants import (
    BlockDiagonal,
    block_diagonal,
    monteclora,
    trained_tokens,
    velora,
)


def test_block_diagonal_modules_are_matched_by_parts_of_their_names() -> None:
    found = block_diagonal({"target_modules_bd_a": ["o_proj"], "nblocks": 4})
    assert found == BlockDiagonal(a=("o_proj",), b=(), blocks=4, strict=True)
    assert found.splits_a("model.layers.0.self_attn.o_proj")
    assert not found.splits_b("model.layers.0.self_attn.o_proj")


def test_groups_and_samples_have_pefts_defaults() -> None:
    assert velora({}) == 64
    assert velora({"num_groups": 4, "scale": 1.0}) == 4
    assert monteclora({}) == 8
    assert monteclora({"num_samples": 3}) == 3


def test_trained_tokens_are_those_of_the_input_embeddings_or_of_named_tables() -> None:
    assert trained_tokens([3, 5]) == {"embed_tokens": (3, 5)}
    assert trained_tokens({"lm_head": [1]}) == {"lm_head": (1,)}


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (block_diagonal, [], "object or null"),
        (block_diagonal, {"nblocks": 0}, r"^\[nblocks\] must be an integer from 1"),
        (velora, {"groups": 4}, "must not have a field 'groups'"),
        (velora, {"num_groups": True}, "from 1 to 1024"),
        (monteclora, {"num_samples": 257}, "from 1 to 256"),
        (trained_tokens, 3, "list of token ids"),
        (trained_tokens, [], "1 to 65536 token ids"),
        (trained_tokens, [-1], "integers of at least 0"),
        (trained_tokens, [3, 3], "duplicate tokens"),
    ],
)
def test_an_invalid_variant_is_an_error(
    read: Callable[[Any], Any], value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(value)
