"""The adapter's modules on the base's weights, one after another, without the model.

PEFT puts the adapter into a skeleton of the model: every module is there, no weight is. Then each
adapted layer alone gets its weight from the base's files and its factors from the adapter's, is
measured, and is dropped. So memory holds one tensor of the base at a time, whatever its size.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.errors import AdapterError, BaseModelError
from phi3_lora_qa.gate.adapted_layers import LoraLayer, adapted_modules
from phi3_lora_qa.models.registry import BaseRef, read_base_config

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.gate.bench import Bench

_ADAPTER = "default"
_ENTRIES = 1 << 19
"""Entries of a weight that are read at once."""
Stored = NDArray[np.float32] | NDArray[np.float64]


def is_here(ref: BaseRef | None) -> bool:
    """Whether the base's config and weights lie in a folder of this machine."""
    return ref is not None and ref.folder is not None and bool(BaseFiles.open(ref.folder).files)


def streamed_layers(bench: "Bench") -> Iterator[LoraLayer]:
    """Yield every adapted module by name, each with its weights, which the next one overwrites.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
        BaseModelError: The base's files are not on this machine, or lack a weight.
        CheckFailedError: No module is adapted at all; the check then has not been run.
    """
    ref = bench.target.base
    if ref is None or ref.folder is None:
        raise BaseModelError(
            bench.target.base_missing
            or f"the files of the base {ref.id if ref else ''} are not here; give its folder"
        )
    base = BaseFiles.open(ref.folder)
    modules = adapted_modules(_skeleton(bench), bench.factors)
    weights = [module.get_base_layer().weight for module in modules.values()]
    # One piece of memory for all: to get fresh pages takes longer than to read a weight into them.
    room = weights[0].new_empty(max(weight.numel() for weight in weights), device="cpu")
    for name, module in modules.items():
        layer = copy.deepcopy(module).to_empty(device="cpu")
        weight = layer.get_base_layer().weight
        weight.data = room[: weight.numel()].view(weight.shape)
        for part, tensor in _parameters(layer).items():
            _fill(tensor, part, bench, name, base)
        yield LoraLayer(name, bench.factors[name], layer.eval(), _ADAPTER)


def _skeleton(bench: "Bench") -> Any:
    """PEFT's model on torch's meta device: shapes and dtypes only."""
    import torch
    from peft import PeftModelForCausalLM
    from transformers import Phi3Config, Phi3ForCausalLM

    from phi3_lora_qa.models.peft_config import read_lora_config

    ref = bench.target.base
    assert ref is not None
    config = Phi3Config.from_dict(dict(read_base_config(ref)))
    dtype = getattr(torch, bench.run.settings.dtype)
    with torch.device("meta"):
        model = Phi3ForCausalLM(config).to(dtype)
        lora = read_lora_config(bench.folder.path)
        return PeftModelForCausalLM(model, lora, _ADAPTER, low_cpu_mem_usage=True)


def _parameters(layer: Any) -> Mapping[str, "torch.Tensor"]:
    """The layer's parameters by what they are."""
    base = layer.get_base_layer()
    found = {"weight": base.weight, "base_bias": getattr(base, "bias", None)}
    if _ADAPTER in layer.lora_embedding_A:
        found |= {"A": layer.lora_embedding_A[_ADAPTER], "B": layer.lora_embedding_B[_ADAPTER]}
    else:
        a, b = layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]
        found |= {"A": a.weight, "B": b.weight, "bias": getattr(b, "bias", None)}
    if _ADAPTER in layer.lora_magnitude_vector:
        found["magnitude"] = layer.lora_magnitude_vector[_ADAPTER].weight
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def _fill(tensor: "torch.Tensor", part: str, bench: "Bench", name: str, base: BaseFiles) -> None:
    tied = bool(base.config.get("tie_word_embeddings", False))
    if part == "weight":
        own = name if not (tied and name == "lm_head") else "model.embed_tokens"
        _read_into(tensor, base, f"{own}.weight")
    elif part == "base_bias":
        _read_into(tensor, base, f"{name}.bias")
    else:
        value: Stored | None = getattr(bench.stored_factors[name], part)
        if value is None:
            raise AdapterError(
                f"the file has no {part} for {name}, which the config promises; "
                "save the adapter again, whole"
            )
        _copy(tensor, value)


def _read_into(tensor: "torch.Tensor", base: BaseFiles, name: str) -> None:
    """Read a tensor of the base, a few rows at a time: they stay in the cache on their way."""
    file = next((file for file in base.files if name in file.tensors), None)
    if file is None:
        raise BaseModelError(f"the base in {base.path} has no {name}; fetch the base again")
    few = max(1, _ENTRIES * len(tensor) // tensor.numel())
    try:
        for first in range(0, len(tensor), few):
            rows = slice(first, first + few)
            _copy(tensor[rows], file.tensor(name, rows))
    except AdapterError as error:  # the reader's words are for adapters
        raise BaseModelError(
            f"cannot read {name} of the base in {base.path}, which has dtype "
            f"{file.tensors[name].dtype}; give a base in float32, bfloat16 or float16"
        ) from error


def _copy(tensor: "torch.Tensor", values: Stored) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape))
