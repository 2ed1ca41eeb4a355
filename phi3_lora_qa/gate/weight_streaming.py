"""The adapted modules with the base's weights, one after another, without loading the model.

PEFT attaches the adapter to a skeleton of the model that has modules but no weights. Then one
adapted layer at a time gets its weight from the base's files and its factors from the adapter's
file, is measured, and is dropped. So one tensor of the base is in memory at a time.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import EMBEDDING, HEAD
from phi3_lora_qa.errors import AdapterError, BaseModelError
from phi3_lora_qa.gate.adapted_layers import LoraLayer, adapted_modules
from phi3_lora_qa.models.model_class import causal_lm_class
from phi3_lora_qa.models.registry import BaseRef, read_base_config

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.adapter.folder import AdapterFolder
    from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest

_ADAPTER = "default"
_ENTRIES = 1 << 19
"""The number of entries of a weight that are read at once."""
Stored = NDArray[np.float32] | NDArray[np.float64]


def is_on_disk(ref: BaseRef) -> bool:
    """Whether the base's config and weights are in a folder on this machine."""
    return ref.folder is not None and bool(BaseFiles.open(ref.folder).files)


def stream_layers(ref: BaseRef, adapter: "AdapterUnderTest", dtype: str) -> Iterator[LoraLayer]:
    """Yield every adapted module, sorted by name; the next one overwrites its weights.

    Args:
        ref: The base, whose files are on this machine.
        adapter: The adapter's files.
        dtype: The dtype of the base's weights in the layers, such as ``float32``.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
        BaseModelError: The base's files are not on this machine, or lack a weight.
    """
    if ref.folder is None:
        raise BaseModelError(
            f"the files of the base {ref.id} are not on this machine; pass its folder"
        )
    base = BaseFiles.open(ref.folder)
    modules = adapted_modules(_skeleton(ref, adapter.folder, dtype), adapter.factors)
    weights = [module.get_base_layer().weight for module in modules.values()]
    if not weights:
        return
    # One buffer for all: allocating fresh pages takes longer than reading a weight into them.
    buffer = weights[0].new_empty(max(weight.numel() for weight in weights), device="cpu")
    for name, module in modules.items():
        layer = copy.deepcopy(module).to_empty(device="cpu")
        weight = layer.get_base_layer().weight
        weight.data = buffer[: weight.numel()].view(weight.shape)
        for part, tensor in _parameters(layer).items():
            if part == "weight":
                _read_into(tensor, base, f"{_owner_of_weight(name, base)}.weight")
            elif part == "base_bias":
                _read_into(tensor, base, f"{name}.bias")
            else:
                _copy(tensor, _stored_part(adapter, name, part))
        yield LoraLayer(name, adapter.factors[name], layer.eval(), _ADAPTER)


def _skeleton(ref: BaseRef, folder: "AdapterFolder", dtype: str) -> Any:
    """Return PEFT's model on torch's meta device: shapes and dtypes only."""
    import torch
    from peft import PeftModelForCausalLM

    from phi3_lora_qa.models.peft_config import read_lora_config

    raw = read_base_config(ref)
    model_class = causal_lm_class(raw)
    config = model_class.config_class.from_dict(dict(raw))
    with torch.device("meta"):
        model = model_class(config).to(getattr(torch, dtype))
        lora = read_lora_config(folder.path)
        return PeftModelForCausalLM(model, lora, _ADAPTER, low_cpu_mem_usage=True)


def _parameters(layer: Any) -> Mapping[str, "torch.Tensor"]:
    """Return the layer's parameters by their part in the layer."""
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


def _owner_of_weight(name: str, base: BaseFiles) -> str:
    """Return the module that a module's weight belongs to: a tied head uses the embedding's."""
    return EMBEDDING if base.is_tied and name == HEAD else name


def _stored_part(adapter: "AdapterUnderTest", name: str, part: str) -> Stored:
    value: Stored | None = getattr(adapter.stored_factors[name], part)
    if value is None:
        raise AdapterError(
            f"the weights lack a tensor: the config requires the {part} of {name}; "
            "save the complete adapter again"
        )
    return value


def _read_into(tensor: "torch.Tensor", base: BaseFiles, name: str) -> None:
    """Read a tensor of the base, a few rows at a time, so that they stay in the CPU cache."""
    file = next((file for file in base.files if name in file.tensors), None)
    if file is None:
        raise BaseModelError(f"the base in {base.path} has no {name}; download the base again")
    count = max(1, _ENTRIES * len(tensor) // tensor.numel())
    try:
        for first in range(0, len(tensor), count):
            rows = slice(first, first + count)
            _copy(tensor[rows], file.tensor(name, rows))
    except AdapterError as error:  # the reader's message is about adapters
        raise BaseModelError(
            f"cannot read {name} of the base in {base.path}: its dtype is "
            f"{file.tensors[name].dtype}; use a base in float32, bfloat16 or float16"
        ) from error


def _copy(tensor: "torch.Tensor", values: Stored) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape))
