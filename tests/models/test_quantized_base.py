"""A base in 4 or 8 bits: loaded, attached to without a second copy, and told from others."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3_lora_qa.errors import MissingDependencyError
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quantized_base import (
    is_quantized,
    is_quantized_here,
    keep_weights_as_stored,
    quantization_of,
    require_bitsandbytes,
    tensors_of_state,
)
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring.engine_choice import choose_engine

absent = find_spec("bitsandbytes") is None
needed = pytest.mark.skipif(absent, reason='pip install "phi3-lora-qa[qlora]"')
IDS = torch.arange(5, 25)[None]


@pytest.mark.skipif(not absent, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_pip_line_is_named() -> None:
    with pytest.raises(MissingDependencyError, match=r'pip install "phi3-lora-qa\[qlora\]"'):
        require_bitsandbytes("--phi3-quantization nf4")
    with pytest.raises(MissingDependencyError, match=r"--phi3-quantization int8 needs"):
        load_base(resolve_base("tiny"), quantization="int8")


def test_without_quantization_nothing_is_needed_and_nothing_is_quantized(tiny: LoadedBase) -> None:
    assert quantization_of("none", "float32") is None
    assert not is_quantized_here(tiny.model)
    assert not any(map(is_quantized, tiny.model.parameters()))
    assert not any(map(tensors_of_state, tiny.model.modules()))
    keep_weights_as_stored(tiny.model)


@needed
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_shares_the_weights_of_a_quantized_base(
    kind: str, tiny: LoadedBase, good_adapter: Path
) -> None:
    with quiet(), torch.inference_mode():
        base: Any = load_base(resolve_base("tiny"), quantization=kind).model
        assert is_quantized_here(base)
        # In 8 bits an item's score would depend on the other items of its batch.
        assert choose_engine("fast", base).name == ("plain" if kind == "int8" else "fast")
        before, answer = checksum(base), base(IDS).logits
        assert not torch.equal(answer, tiny.model(IDS).logits)
        tuned: Any = attach(base, good_adapter)
        first = next(name for name, p in base.named_parameters() if is_quantized(p))
        module, _, leaf = first.rpartition(".")
        shared = tuned.get_submodule(f"base_model.model.{module}").get_base_layer()
        assert getattr(shared, leaf).data_ptr() == base.get_parameter(first).data_ptr()
        assert not torch.equal(tuned(IDS).logits, answer)
        with tuned.disable_adapter():
            assert torch.equal(tuned(IDS).logits, answer)
        assert torch.equal(base(IDS).logits, answer)
        assert checksum(base) == before


@needed
def test_the_scales_are_part_of_the_identity_of_a_quantized_base() -> None:
    with quiet():
        base = load_base(resolve_base("tiny"), quantization="nf4").model
        before = checksum(base)
        weight: Any = next(p for p in base.parameters() if is_quantized(p))
        weight.quant_state.absmax[0] += 1
        assert checksum(base) != before
