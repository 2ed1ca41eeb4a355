"""Attach an adapter to a base without changing the base: a second module tree, the same tensors.

PEFT rewrites the module tree that it gets, and some adapters rewrite the weights too. So PEFT gets
a copy whose modules and parameters are new objects that share the base's storage. Only one copy of
the weights is in memory, and an assignment to ``weight.data`` in the copy (as in ``safe_merge`` and
several initializations) leaves the base unchanged. A write *into* a tensor would still change the
base, so everything that would make PEFT do that while loading is rejected beforehand. Merging with
``safe_merge=False`` writes into tensors: do that on a real copy.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.adapter.tensor_names import DEFAULT_ADAPTER
from phi3_lora_qa.errors import AdapterError, IncompatibleLibraryError, escape
from phi3_lora_qa.models.attached_tensors import (
    TABLE,
    require_same_names,
    require_same_values,
    require_separate_storage,
    require_shared_base,
    rounded_tables,
)
from phi3_lora_qa.models.checksum import require_plain
from phi3_lora_qa.models.peft_config import read_lora_config
from phi3_lora_qa.models.quantized_base import is_quantized, shared_parameter, tensors_of_state
from phi3_lora_qa.models.quiet import quiet

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel


def attach(
    base_model: "PreTrainedModel", adapter_folder: Path, name: str = DEFAULT_ADAPTER
) -> "PeftModel":
    """Return a PEFT model that shares the base's tensors and has every tensor of the adapter.

    Args:
        base_model: A plain Phi-3, as ``load_base`` returns it. It is not changed.
        adapter_folder: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            Pickles are never read.
        name: The adapter's name in the model.

    Returns:
        The model in eval mode with the adapter active and nothing trainable.

    Raises:
        AdapterError: A file is missing, the config would rewrite the base, or a tensor of the
            file was not loaded bit for bit (up to the cast to the model's dtype).
        BaseModelError: ``base_model`` already has PEFT layers.
        IncompatibleLibraryError: The installed peft does not support a field of the config.
    """
    require_plain(base_model)
    weights = adapter_folder / WEIGHTS
    for path in (adapter_folder / CONFIG, weights):
        if not path.is_file():
            raise AdapterError(
                f"the adapter folder {adapter_folder} has no {path.name}; "
                "save the adapter with save_pretrained, as safetensors"
            )
    with quiet():
        try:
            return _attach(base_model, adapter_folder, weights, name)
        except (AdapterError, IncompatibleLibraryError):
            raise
        except Exception as error:  # a library may raise anything on a damaged adapter
            raise AdapterError(
                f"the adapter {adapter_folder} cannot be attached to the base: "
                f"{type(error).__name__}: {escape(str(error), 300)}; "
                "run phi3-lora-qa lint on it, and check that it was trained on this base"
            ) from error


def shared_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    """Copy the module tree; parameters and buffers become new objects that share their storage."""
    return _copy_tree(model, lambda parameter: parameter.detach())


def weightless_copy(model: "PreTrainedModel", dtype: "torch.dtype") -> "PreTrainedModel":
    """Copy the module tree; parameters become zeros of another dtype that take no memory.

    This shows how an adapter attaches to a base of that dtype, without making such a base.
    """
    import torch

    return _copy_tree(
        model, lambda old: torch.zeros((), dtype=dtype, device=old.device).expand(old.shape)
    )


def adapter_tensors(
    model: "PeftModel | PreTrainedModel", name: str = DEFAULT_ADAPTER
) -> "dict[str, Tensor]":
    """Return an attached adapter's tensors, by the names under which PEFT saves them."""
    from peft import get_peft_model_state_dict

    # With "auto", PEFT would query the hub to find out whether the vocabulary grew.
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


def _attach(base_model: "PreTrainedModel", folder: Path, weights: Path, name: str) -> "PeftModel":
    from peft import PeftModelForCausalLM
    from safetensors.torch import load_file

    config = read_lora_config(folder)
    saved = load_file(weights, device="cpu")
    rounded = rounded_tables(folder, base_model, saved)
    own = {key: tensor for key, tensor in saved.items() if not key.endswith(TABLE)}
    tuned = PeftModelForCausalLM(shared_copy(base_model), config, name)
    require_same_names(folder, own, adapter_tensors(tuned, name))
    require_separate_storage(folder, base_model, adapter_tensors(tuned, name))
    with _protect_tables(tuned, rounded):
        tuned.load_adapter(str(folder), name, torch_device="cpu")
    require_same_values(folder, saved, adapter_tensors(tuned, name))
    require_shared_base(folder, base_model, tuned)
    return tuned.eval()


def _copy_tree(
    model: "PreTrainedModel", parameter_of: "Callable[[Tensor], Tensor]"
) -> "PreTrainedModel":
    from torch import nn

    memo: dict[int, Any] = {
        id(parameter): shared_parameter(parameter)
        if is_quantized(parameter)
        else nn.Parameter(parameter_of(parameter), requires_grad=False)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    for module in model.modules():
        memo |= {id(tensor): tensor for tensor in tensors_of_state(module)}
    return copy.deepcopy(model, memo)


@contextmanager
def _protect_tables(tuned: "PeftModel", tables: list[str]) -> Iterator[None]:
    """Let PEFT overwrite copies of the base's tables, and restore the base's own afterwards."""
    parameters = [tuned.get_parameter(name) for name in tables]
    originals = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.clone()
    try:
        yield
    finally:
        for parameter, data in zip(parameters, originals, strict=True):
            parameter.data = data
