import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phi3_lora_qa.conversion.fit_to_base import fit_to_base
from phi3_lora_qa.conversion.peft_adapter import write_adapter
from phi3_lora_qa.conversion.torchtune_adapter import from_torchtune
from phi3_lora_qa.errors import InputError
from tests.conversion.foreign import (
    BASE,
    LINEAR,
    SPLIT,
    Tensors,
    assert_same_deltas,
    expected_deltas,
    factors,
    written_deltas,
)

NAMES = {
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}
ALL = (*SPLIT, *(name for name in LINEAR if name.endswith(("o_proj", "down_proj"))))
FIRST = "layers.0.mlp.w2"


def tensors_of(names: tuple[str, ...]) -> Tensors:
    found: Tensors = {}
    for name in names:
        _, layers, index, inner = name.split(".", 3)
        written = f"{layers}.{index}.{NAMES[inner]}"
        a, b = factors(name)
        found |= {f"{written}.lora_a.weight": a, f"{written}.lora_b.weight": b}
    return found


def test_the_deltas_are_bitwise_those_of_torchtune(tmp_path: Path) -> None:
    adapter = fit_to_base(from_torchtune(tensors_of(ALL), BASE, alpha=6), BASE)
    write_adapter(tmp_path, adapter, BASE.modules)
    found = written_deltas(tmp_path)
    assert set(found) == set(LINEAR)
    assert_same_deltas(found, expected_deltas(dict.fromkeys(ALL, (4, 1.5)), ALL))


def test_another_base_is_refused_because_rows_are_reordered() -> None:
    llama = replace(BASE, config={**BASE.config, "model_type": "llama"})
    with pytest.raises(InputError, match="reorders the rows of q and k"):
        from_torchtune(tensors_of(ALL), llama, alpha=8)


FAULTS: dict[str, tuple[Tensors, str]] = {
    "DoRA": ({f"{FIRST}.magnitude": torch.ones(96)}, "is a magnitude of DoRA"),
    "other name": ({"output.lora_a.weight": torch.ones(4, 96)}, "is an unknown name"),
    "layer": ({"layers.x.mlp.w2.lora_a.weight": torch.ones(4, 256)}, "is an unknown name"),
    "one factor": ({f"{FIRST}.lora_a.weight": torch.ones(4, 256)}, r"has no lora_b\.weight"),
    "ranks": (
        {f"{FIRST}.lora_a.weight": torch.ones(4, 9), f"{FIRST}.lora_b.weight": torch.ones(9, 5)},
        "do not fit each other",
    ),
    "nothing": ({}, "contains no factors"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_tensors_are_refused_by_name(fault: str) -> None:
    tensors, message = FAULTS[fault]
    with pytest.raises(InputError, match=message):
        from_torchtune(tensors, BASE, alpha=8)


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_an_alpha_that_is_not_a_number_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha must be finite"):
        from_torchtune(tensors_of(ALL), BASE, alpha=alpha)
