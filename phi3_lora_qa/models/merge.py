"""Write base plus adapter as a plain model, with at most one shard of it in memory."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base_files import WEIGHTS_INDEX
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.models.loading import LoadedBase

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

SHARD_BYTES = 256 << 20


def merge_to_folder(base: LoadedBase, tuned: "PeftModel", folder: Path) -> None:
    """Write the merged model, its tokenizer and configs into a new folder.

    PEFT merges a copy of each adapted module, so neither the base nor the attached model changes,
    and at most one shard of merged weights is in memory.

    Args:
        base: The plain base, the source of dtype, names, tokenizer and configs.
        tuned: The tuned model, from ``attach``.
        folder: Must not exist yet.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    shards: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    pending = total = 0

    def flush() -> None:
        nonlocal pending
        name = f"model-{len(set(shards.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        shards.update(dict.fromkeys(shard, name))
        shard.clear()
        pending = 0

    untied = _is_untied_by(base, tuned)
    for name, tensor in merged_tensors(base, tuned, untied=untied):
        shard[name] = tensor.contiguous()
        pending += tensor.nbytes
        total += tensor.nbytes
        if pending >= SHARD_BYTES:
            flush()
    if shard:
        flush()
    index = {"metadata": {"total_size": total}, "weight_map": shards}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index), encoding="utf-8")
    config = copy.deepcopy(base.model.config)
    config.tie_word_embeddings = config.tie_word_embeddings and not untied
    config.save_pretrained(folder)
    if base.model.generation_config is not None:
        base.model.generation_config.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def merged_tensors(
    base: LoadedBase, tuned: "PeftModel", *, untied: bool
) -> "Iterator[tuple[str, Tensor]]":
    """Yield the merged model's tensors by name, each computed when it is needed.

    Args:
        base: The plain base.
        tuned: The tuned model, from ``attach``.
        untied: Whether to yield the head even if the base ties it to its embedding table.
    """
    modules = dict(tuned.get_base_model().named_modules())
    tied = {"lm_head.weight"} if base.model.config.tie_word_embeddings and not untied else set()
    for path, module in base.model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        merged = _merged_module(modules[path], tuned.active_adapter)
        for name in own:
            full = f"{path}.{name}"
            if full not in tied:
                yield full, getattr(merged, name).detach()


def _merged_module(module: Any, adapter: str) -> Any:
    """Return the plain module that replaces an adapted one."""
    saved, tokens = (
        part_of("peft", "peft.utils.other", name)
        for name in ("ModulesToSaveWrapper", "TrainableTokensWrapper")
    )
    if isinstance(module, tokens):
        module = module.token_adapter
    if isinstance(module, saved):
        return module.modules_to_save[adapter]
    if isinstance(module, part_of("peft", "peft.tuners.tuners_utils", "BaseTunerLayer")):
        merged: Any = copy.deepcopy(module)
        merged.merge(safe_merge=True)
        return merged.get_base_layer()
    return module


def _is_untied_by(base: LoadedBase, tuned: "PeftModel") -> bool:
    """Return whether the adapter makes the embedding table and the head of a tied base differ."""
    import torch

    if not base.model.config.tie_word_embeddings:
        return False
    inner = tuned.get_base_model()
    first, second = (
        _merged_module(inner.get_submodule(path), tuned.active_adapter).weight
        for path in ("model.embed_tokens", "lm_head")
    )
    return not torch.equal(first, second)
