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

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.errors import AdapterError, BaseModelError
from phi3_lora_qa.gate.layers import LoraLayer, adapted_modules
from phi3_lora_qa.models.registry import BaseRef, read_base_config

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.gate.bench import Bench

_ADAPTER = "default"
Stored = NDArray[np.float32] | NDArray[np.float64]


def is_here(ref: BaseRef | None) -> bool:
    """Whether the base's config and weights lie in a folder of this machine."""
    return ref is not None and ref.folder is not None and bool(BaseFiles.open(ref.folder).files)


def streamed_layers(bench: "Bench") -> Iterator[LoraLayer]:
    """Yield every adapted module by name, each with its weights; the one before is let go.

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
    skeleton = _skeleton(bench)
    for name, module in adapted_modules(skeleton, bench.factors).items():
        layer = copy.deepcopy(module).to_empty(device="cpu")
        for part, tensor in _parameters(layer).items():
            _fill(tensor, _value(part, bench, name, base))
        yield LoraLayer(name, bench.factors[name], layer.eval(), _ADAPTER)
        del layer, tensor  # before the next one is made


def _skeleton(bench: "Bench") -> Any:
    """PEFT's model on torch's meta device: shapes and dtypes only."""
    import torch
    from peft import PeftModelForCausalLM
    from transformers import Phi3Config, Phi3ForCausalLM

    from phi3_lora_qa.models.attach import read_lora_config

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


def _value(part: str, bench: "Bench", name: str, base: BaseFiles) -> Stored:
    if part == "weight":
        return _weight(base, name)
    if part == "base_bias":
        return _tensor(base, f"{name}.bias")
    stored = bench.stored_factors[name]
    value: Stored | None = getattr(stored, part)
    if value is None:
        raise AdapterError(
            f"the file has no {part} for {name}, which the config promises; "
            "save the adapter again, whole"
        )
    return value


def _weight(base: BaseFiles, name: str) -> Stored:
    tied = bool(base.config.get("tie_word_embeddings", False))
    own = name if not (tied and name == "lm_head") else "model.embed_tokens"
    return _tensor(base, f"{own}.weight")


def _tensor(base: BaseFiles, name: str) -> Stored:
    for file in base.files:
        if name in file.tensors:
            try:
                return file.tensor(name)
            except AdapterError as error:  # the reader's words are for adapters
                raise BaseModelError(
                    f"cannot read {name} of the base in {base.path}, which has dtype "
                    f"{file.tensors[name].dtype}; give a base in float32, bfloat16 or float16"
                ) from error
    raise BaseModelError(f"the base in {base.path} has no {name}; fetch the base again")


def _fill(tensor: "torch.Tensor", values: Stored) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape))
