"""Where a base is loaded: on the CPU, on one device, or distributed over several GPUs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.devices import usable_gpus
from phi3_lora_qa.models.model_size import model_size
from phi3_lora_qa.setting_specs import CPU, CUDA

_RESERVE = 1 << 30
"""Bytes of a GPU that are left for its driver, activations and the KV cache."""


def placement(device: str, source: str, dtype: str, quantization: str) -> Mapping[str, Any]:
    """Return the arguments of ``from_pretrained`` that place a base.

    Args:
        device: The device, as `choose_device` returns it.
        source: The folder of the base, or a hub id.
        dtype: The dtype of the weights.
        quantization: ``none``, ``nf4`` or ``int8``.
    """
    if device == CPU:
        return {} if quantization == "none" else {"device_map": {"": CPU}}
    if device != CUDA:
        return {"device_map": {"": device}}
    import torch

    free = {n: torch.cuda.mem_get_info(n)[0] for n in usable_gpus()}
    return distributed(free, _weights(source, dtype, quantization))


def distributed(free: Mapping[int, int], weights: int) -> Mapping[str, Any]:
    """Place weights on the GPU with most free memory, or on all of them if it is too small.

    No weight is placed on the CPU or on disk, where accelerate would run it many times slower.

    Args:
        free: The free bytes of each GPU by its number.
        weights: The bytes of the weights; 0 if they are not known.
    """
    best = max(free, key=lambda number: (free[number], -number))
    if len(free) == 1 or (weights and weights + _RESERVE <= free[best]):
        return {"device_map": {"": f"{CUDA}:{best}"}}
    left = {number: max(0, size - _RESERVE) for number, size in free.items()}
    return {"device_map": "balanced", "max_memory": left}


def _weights(source: str, dtype: str, quantization: str) -> int:
    if not Path(source).is_dir():
        return 0  # a hub id
    try:
        return model_size(BaseFiles.open(source), dtype, quantization).weights
    except BaseModelError:
        return 0  # loading says what is wrong with a file
