"""Attach an adapter to a base without changing the base: a second module tree, the same tensors.

PEFT rewrites the module tree that it gets, and some adapters rewrite the weights too. So PEFT gets
a copy whose modules and parameters are new objects that share the base's storage. Only one copy of
the weights is in memory, and an assignment to ``weight.data`` in the copy (as ``safe_merge`` and
several initializations do it) leaves the base unchanged. A write *into* a tensor would still change
the base, so everything that would make PEFT do that while loading is refused beforehand. Merging
with ``safe_merge=False`` writes into tensors: do that on a real copy.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.config import read_raw_config
from phi3_lora_qa.adapter.config_schema import SAFE_INIT
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.tensor_names import DEFAULT_ADAPTER, PREFIX, Part
from phi3_lora_qa.errors import AdapterError, IncompatibleLibraryError, escape
from phi3_lora_qa.libraries import is_older
from phi3_lora_qa.models.checksum import require_plain
from phi3_lora_qa.models.quiet import quiet

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

_TABLE = f".{Part.BASE_WEIGHT}"
# These leave the base's weights alone; pissa, olora, corda, loftq and lora_ga subtract from them.
_SAFE_INITS = (None, *SAFE_INIT)
_REWRITING_FIELDS = ("layer_replication", "megatron_config", "arrow_config")


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
            file did not arrive bit for bit (up to the cast to the model's dtype).
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
        except Exception as error:  # whatever a library raises on a damaged adapter
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

    return _copy_tree(model, lambda parameter: torch.zeros((), dtype=dtype).expand(parameter.shape))


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
    rounded = _rounded_tables(folder, base_model, saved)
    own = {key: tensor for key, tensor in saved.items() if not key.endswith(_TABLE)}
    tuned = PeftModelForCausalLM(shared_copy(base_model), config, name)
    _require_same_names(folder, own, adapter_tensors(tuned, name))
    _require_separate_storage(folder, base_model, adapter_tensors(tuned, name))
    with _protect_tables(tuned, rounded):
        tuned.load_adapter(str(folder), name, torch_device="cpu")
    _require_same_values(folder, saved, adapter_tensors(tuned, name))
    _require_shared_base(folder, base_model, tuned)
    return tuned.eval()


def read_lora_config(folder: Path) -> "LoraConfig":
    """Read an adapter's config with PEFT itself.

    Raises:
        AdapterError: It is not a LoRA for a causal language model, or would rewrite the base.
    """
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise AdapterError(
            f"the adapter {folder} is not a LoRA adapter: its type is "
            f"{escape(str(config.peft_type), 40)}; pass a LoRA adapter"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise AdapterError(
            f"the adapter {folder} is for another task: {escape(str(config.task_type), 40)}; "
            "pass one that was trained with task_type CAUSAL_LM"
        )
    if config.init_lora_weights not in _SAFE_INITS:
        raise AdapterError(
            f"the adapter {folder} would rewrite the base when it is loaded: it was initialized "
            f"with {escape(repr(config.init_lora_weights), 40)}; convert it to plain LoRA when "
            "saving, with path_initial_model_for_weight_conversion"
        )
    for name in _REWRITING_FIELDS:
        if getattr(config, name, None):
            raise AdapterError(
                f"the adapter {folder} would rebuild the base when it is loaded: it sets {name}; "
                f"train it without {name}"
            )
    _require_known_fields(folder, config)
    config.inference_mode = True
    if samples := getattr(config, "monteclora_config", None):  # since peft 0.21
        # Samples are drawn when a layer is created, and used only in training.
        samples.buffer_size = 1
    return config


def _require_known_fields(folder: Path, config: "LoraConfig") -> None:
    """Refuse fields that the installed PEFT does not know: it would ignore them silently."""
    values = read_raw_config(AdapterFolder.open(folder))
    known = {field.name for field in fields(config)}
    unknown = sorted(name for name, value in values.items() if value and name not in known)
    if config.init_lora_weights == "mica" and is_older("peft", "0.20"):
        unknown.append("init_lora_weights to mica")
    if unknown:
        raise IncompatibleLibraryError(
            f"peft {version('peft')} does not support a field of the adapter {folder}: "
            f"{escape(unknown[0], 80)}; install a newer one: pip install --upgrade peft"
        )


def _copy_tree(
    model: "PreTrainedModel", parameter_of: "Callable[[Tensor], Tensor]"
) -> "PreTrainedModel":
    from torch import nn

    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter_of(parameter), requires_grad=False)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.detach() for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _rounded_tables(
    folder: Path, base_model: "PreTrainedModel", saved: "Mapping[str, Tensor]"
) -> list[str]:
    """Refuse embedding tables of another base; return the names of rounded copies.

    PEFT saves the base's table with the factors for it, and copies it back into the base. A copy
    that was rounded to another dtype must not get there.

    Raises:
        AdapterError: A table is not the base's.
    """
    import torch

    base, rounded = base_model.state_dict(), []
    for name in (n for n in saved if n.endswith(_TABLE)):
        path = name.removeprefix(PREFIX).removesuffix(_TABLE)
        table, copied = base.get(f"{path}.weight"), saved[name]
        if table is None or table.shape != copied.shape or not _is_rounded(copied, table.cpu()):
            raise AdapterError(
                f"the adapter {folder} would replace {escape(path, 120)} of the base by another "
                "table; use the base that it was trained on, or remove its base_layer.weight "
                "tensors"
            )
        if not torch.equal(_bits(copied.to(table.dtype)), _bits(table.cpu())):
            rounded.append(name)
    return rounded


def _is_rounded(one: "Tensor", other: "Tensor") -> bool:
    """Return whether one of two tables is the other one rounded, as the linter compares them.

    The linter compares the dtypes of the files; a loaded base may have a wider dtype.
    """
    import torch

    for dtype in (other.dtype, one.dtype, torch.bfloat16, torch.float16):
        first, second = one.to(dtype), other.to(dtype)
        exact = torch.equal(first.to(one.dtype), one) or torch.equal(second.to(other.dtype), other)
        if exact and torch.equal(first, second):
            return True
    return False


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


def _require_same_names(
    folder: Path, saved: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]"
) -> None:
    """Compare names and shapes beforehand: PEFT ignores unknown and missing tensors."""
    unknown = sorted(saved.keys() - expected.keys())
    missing = sorted(expected.keys() - saved.keys())
    if unknown:
        raise AdapterError(
            f"the adapter {folder} has {_count(unknown)} for which the base has no module under "
            f"this config: {_first(unknown)}; train qkv_proj, o_proj, gate_up_proj, down_proj"
        )
    if missing:
        raise AdapterError(
            f"the adapter {folder} lacks {_count(missing)} that its config requires: "
            f"{_first(missing)}; save the whole adapter again"
        )
    shapes = sorted(name for name in saved if saved[name].shape != expected[name].shape)
    if shapes:
        name = shapes[0]
        raise AdapterError(
            f"the adapter {folder} has {_count(shapes)} whose shape does not match base and "
            f"config: {escape(name, 120)} is {tuple(saved[name].shape)}, not "
            f"{tuple(expected[name].shape)}; use the base that the adapter was trained on"
        )


def _require_separate_storage(
    folder: Path, base_model: "PreTrainedModel", targets: "Mapping[str, Tensor]"
) -> None:
    """Refuse tensors that are the base's: loading copies into tensors in place."""
    base = {parameter.data_ptr() for parameter in base_model.parameters()}
    overwritten = sorted(name for name, tensor in targets.items() if tensor.data_ptr() in base)
    if overwritten:
        raise AdapterError(
            f"the adapter {folder} would overwrite {_count(overwritten)} of the base: "
            f"{_first(overwritten)}; train it with bias='none'"
        )


def _require_same_values(
    folder: Path, saved: "Mapping[str, Tensor]", loaded: "Mapping[str, Tensor]"
) -> None:
    import torch

    wrong = sorted(
        name
        for name, tensor in loaded.items()
        if not torch.equal(_bits(saved[name].to(tensor.dtype)), _bits(tensor.cpu()))
    )
    if wrong:
        raise AdapterError(
            f"{_count(wrong)} of the adapter {folder} did not arrive in the model unchanged: "
            f"{_first(wrong)}; save it again with this version of peft, "
            "with one value for tied weights"
        )


def _require_shared_base(folder: Path, base_model: "PreTrainedModel", tuned: "PeftModel") -> None:
    storage = {parameter.data_ptr() for parameter in tuned.parameters()}
    replaced = sorted(n for n, p in base_model.named_parameters() if p.data_ptr() not in storage)
    if replaced:
        raise AdapterError(
            f"loading the adapter {folder} replaced {_count(replaced)} of the base: "
            f"{_first(replaced)}; save it as plain LoRA"
        )


def _bits(tensor: "Tensor") -> "Tensor":
    """Return the bytes of a tensor, so that a NaN equals itself."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _count(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _first(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(escape(name, 120) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, …"
