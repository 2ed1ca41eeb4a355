"""Load a base from safetensors with Phi-3's own class: no remote code, no pickle, no noise."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base_files import WEIGHTS, WEIGHTS_INDEX
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, find_known, read_base_config
from phi3_lora_qa.reading import read_text

if TYPE_CHECKING:
    from transformers import Phi3ForCausalLM, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class LoadedBase:
    """A base in memory: in eval mode, with its tokenizer and where it came from."""

    model: "Phi3ForCausalLM"
    tokenizer: "PreTrainedTokenizerBase"
    ref: BaseRef


def load_base(ref: BaseRef, dtype: str = "float32") -> LoadedBase:
    """Load a base for scoring or training.

    Args:
        ref: What :func:`~phi3_lora_qa.models.registry.resolve_base` found. A hub id that is not
            on this machine is downloaded.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the checkpoint's own.

    Returns:
        The model with SDPA attention and ``use_cache``, in eval mode, on the CPU.

    Raises:
        BaseModelError: The base is no Phi-3, lacks a file, or its weights do not fit its config.
    """
    if dtype not in DTYPES:
        raise BaseModelError(
            f"the dtype {escape(repr(dtype), 40)} is unknown; use one of {', '.join(DTYPES)}"
        )
    read_base_config(ref)
    source = _source(ref)
    with quiet():
        try:
            model, tokenizer = _load(source, dtype)
        except BaseModelError:
            raise
        except Exception as error:  # whatever a library raises on a damaged folder
            raise BaseModelError(_failure(ref, source, error)) from error
    return LoadedBase(model=model, tokenizer=tokenizer, ref=ref)


def load_tokenizer(ref: BaseRef) -> "PreTrainedTokenizerBase":
    """Load a base's tokenizer alone, for a base that runs elsewhere; its weights may be missing.

    Args:
        ref: What :func:`~phi3_lora_qa.models.registry.resolve_base` found. A hub id that is not
            on this machine is downloaded, without the weights.

    Raises:
        BaseModelError: The base is no Phi-3, or its tokenizer is missing or does not fit.
    """
    vocabulary = read_base_config(ref).get("vocab_size")
    source = _source(ref, weights=False)
    with quiet():
        try:
            return _tokenizer(source, vocabulary if isinstance(vocabulary, int) else None)
        except BaseModelError:
            raise
        except Exception as error:  # whatever a library raises on a damaged folder
            raise BaseModelError(_failure(ref, source, error)) from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a model folder, in order.

    Raises:
        BaseModelError: There are none, only pickles, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / WEIGHTS_INDEX).is_file():
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise BaseModelError(
                f"the base in {folder} has its weights in a pickle, which can run code when it is "
                "read; save it again with safe_serialization, as model.safetensors"
            )
        raise BaseModelError(f"the base in {folder} has no {WEIGHTS}; download it again")
    try:
        names = set(json.loads(read_text(folder / WEIGHTS_INDEX, 32 << 20))["weight_map"].values())
        shards = tuple(sorted(folder / Path(name).name for name in names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaseModelError(
            f"cannot read {folder / WEIGHTS_INDEX}: {escape(str(error))}; download the base again"
        ) from error
    for shard in shards:
        if not shard.is_file():
            raise BaseModelError(
                f"the base in {folder} lacks its shard {escape(shard.name, 100)}; download it again"
            )
    return shards


def _source(ref: BaseRef, *, weights: bool = True) -> str:
    """Return the folder when it is whole, else the hub id, which then is downloaded."""
    if ref.folder is None:
        return ref.id
    try:
        if weights:
            weight_files(ref.folder)
        _require_tokenizer(ref.folder)
    except BaseModelError:
        known = find_known(ref.id)
        if known is not None and known.source == "hub":
            return ref.id  # only part of it is in the hub's cache
        raise
    return str(ref.folder)


def _require_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise BaseModelError(
            f"the base in {folder} has no tokenizer ({' or '.join(_TOKENIZERS)}); "
            "save one there with tokenizer.save_pretrained"
        )


def _load(source: str, dtype: str) -> "tuple[Phi3ForCausalLM, PreTrainedTokenizerBase]":
    import torch
    from transformers import Phi3ForCausalLM

    loaded: Any = Phi3ForCausalLM.from_pretrained(
        source,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        attn_implementation="sdpa",
        use_cache=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, report = loaded
    _require_all_landed(source, report)
    return model.eval(), _tokenizer(source, model.config.vocab_size)


def _tokenizer(source: str, vocabulary: int | None) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise BaseModelError(
            f"the tokenizer of {source} knows {len(tokenizer)} tokens, the model "
            f"{vocabulary}; give a base with its own tokenizer"
        )
    return tokenizer


def _require_all_landed(source: str, report: dict[str, Any]) -> None:
    """Refuse what transformers only logs: it fills a missing weight with random numbers."""
    for kind, verb in (("missing_keys", "lack"), ("unexpected_keys", "hold the unknown")):
        names = sorted(report[kind])
        if names:
            shown = ", ".join(escape(name, 100) for name in names[:3])
            raise BaseModelError(
                f"the weights of {source} {verb} {shown}"
                f"{f' and {len(names) - 3} more' if len(names) > 3 else ''}; "
                "give a base whose config.json belongs to its weights"
            )


def _failure(ref: BaseRef, source: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {escape(str(error), 300)}"
    if source == ref.id and ref.folder != Path(source):
        return (
            f"cannot download the base {source} ({reason}); "
            "check the network, or download it elsewhere and give its folder"
        )
    return f"cannot load the base from {source} ({reason}); download it again"
