"""Check that an adapter's tensors fit a base, load unchanged, and do not change the base."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.tensor_names import PREFIX, Part
from phi3_lora_qa.errors import AdapterError, escape

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

TABLE = f".{Part.BASE_WEIGHT}"
"""How the name of a copy of the base's embedding table ends, which PEFT saves with its factors."""


def rounded_tables(
    folder: Path, base_model: "PreTrainedModel", saved: "Mapping[str, Tensor]"
) -> list[str]:
    """Reject embedding tables of another base; return the names of rounded copies.

    PEFT saves the base's table with the factors for it, and copies it back into the base. A copy
    that was rounded to another dtype must not get there.

    Raises:
        AdapterError: A table is not the base's.
    """
    import torch

    base, rounded = base_model.state_dict(), []
    for name in (n for n in saved if n.endswith(TABLE)):
        path = name.removeprefix(PREFIX).removesuffix(TABLE)
        table, copied = base.get(f"{path}.weight"), saved[name]
        if table is None or table.shape != copied.shape or not _is_rounded(copied, table.cpu()):
            raise AdapterError(
                f"the adapter {folder} would replace {escape(path, 120)} of the base with another "
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


def require_same_names(
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


def require_separate_storage(
    folder: Path, base_model: "PreTrainedModel", targets: "Mapping[str, Tensor]"
) -> None:
    """Reject tensors that are the base's own: loading copies values into tensors in place."""
    base = {parameter.data_ptr() for parameter in base_model.parameters()}
    overwritten = sorted(name for name, tensor in targets.items() if tensor.data_ptr() in base)
    if overwritten:
        raise AdapterError(
            f"the adapter {folder} would overwrite {_count(overwritten)} of the base: "
            f"{_first(overwritten)}; train it with bias='none'"
        )


def require_same_values(
    folder: Path, saved: "Mapping[str, Tensor]", loaded: "Mapping[str, Tensor]"
) -> None:
    """Reject tensors that are not bit for bit the saved ones, cast to the model's dtype."""
    import torch

    wrong = sorted(
        name
        for name, tensor in loaded.items()
        if not torch.equal(_bits(saved[name].to(tensor.dtype)), _bits(tensor.cpu()))
    )
    if wrong:
        raise AdapterError(
            f"{_count(wrong)} of the adapter {folder} changed when it was loaded into the model: "
            f"{_first(wrong)}; save it again with this version of peft, "
            "with one value for tied weights"
        )


def require_shared_base(folder: Path, base_model: "PreTrainedModel", tuned: "PeftModel") -> None:
    """Reject an adapter whose loading replaced a tensor of the base in the tuned model."""
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
