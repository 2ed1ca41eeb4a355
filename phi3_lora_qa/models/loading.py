"""Load a base from safetensors with transformers' own class: no remote code, pickle or log."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base_files import WEIGHTS, WEIGHTS_INDEX, BaseFiles, indexed_files
from phi3_lora_qa.errors import BaseModelError, escape, shortage
from phi3_lora_qa.models.model_class import base_architecture, causal_lm_class
from phi3_lora_qa.models.placement import placement
from phi3_lora_qa.models.quantized_base import keep_weights_as_stored, quantization_of
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, find_known, read_base_config
from phi3_lora_qa.setting_specs import CPU, UNQUANTIZED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class LoadedBase:
    """A base in memory: the model in eval mode, its tokenizer, and its reference."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    ref: BaseRef


def load_base(
    ref: BaseRef, dtype: str = "float32", device: str = CPU, quantization: str = UNQUANTIZED
) -> LoadedBase:
    """Load a base for scoring or training.

    Args:
        ref: The base, from :func:`~phi3_lora_qa.models.registry.resolve_base`. A hub id that is
            not on this machine is downloaded.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the checkpoint's own.
        device: Where the model runs, as `choose_device` returns it. With ``cuda`` a model that one
            GPU cannot hold is distributed over all of them.
        quantization: ``none``, or ``nf4`` or ``int8`` for linear layers in 4 or 8 bits.

    Returns:
        The model with its architecture's attention implementation and ``use_cache``, in eval mode.

    Raises:
        BaseModelError: The architecture is unknown, a file is missing, or the weights do not
            match the config.
        MachineError: The device has too little memory.
        MissingDependencyError: bitsandbytes is needed, and is not installed.
    """
    if dtype not in DTYPES:
        raise BaseModelError(
            f"the dtype is unknown: {escape(repr(dtype), 40)}; use one of {', '.join(DTYPES)}"
        )
    source = _source(ref)
    options = dict(placement(device, source, dtype, quantization))
    if (config := quantization_of(quantization, dtype)) is not None:
        options["quantization_config"] = config
    with quiet():
        try:
            _require_consistent(source)
            model, tokenizer = _load(source, dtype, read_base_config(ref), options)
        except BaseModelError:
            raise
        except Exception as error:  # whatever a library raises on a damaged folder
            if short := shortage(error):
                raise short from error
            raise BaseModelError(_failure(ref, source, error)) from error
    return LoadedBase(model=model, tokenizer=tokenizer, ref=ref)


def load_tokenizer(ref: BaseRef) -> "PreTrainedTokenizerBase":
    """Load only a base's tokenizer, for a base that runs elsewhere; its weights may be missing.

    Args:
        ref: The base, from :func:`~phi3_lora_qa.models.registry.resolve_base`. A hub id that is
            not on this machine is downloaded, without the weights.

    Raises:
        BaseModelError: The base is not a Phi-3, or its tokenizer is missing or too large.
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
        BaseModelError: There are none, only pickles, a shard is missing, or the index cannot be
            used (see `indexed_files`).
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / WEIGHTS_INDEX).is_file():
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise BaseModelError(
                f"the base in {folder} has its weights in a pickle, which can run code when it is "
                "loaded; save it again as safetensors"
            )
        raise BaseModelError(f"the base in {folder} has no {WEIGHTS}; download it again")
    shards = tuple(folder / name for name in indexed_files(folder))
    for shard in shards:
        if not shard.is_file():
            raise BaseModelError(
                f"the base in {folder} lacks its shard {escape(shard.name, 100)}; download it again"
            )
    return shards


def _source(ref: BaseRef, *, weights: bool = True) -> str:
    """Return the folder if it is complete, otherwise the hub id, which is then downloaded."""
    if ref.folder is None:
        return ref.id
    try:
        if weights:
            weight_files(ref.folder)
        _require_tokenizer(ref.folder)
    except BaseModelError:
        known = find_known(ref.id)
        if known is not None and known.source == "hub":
            return ref.id  # the hub's cache has only part of the base
        raise
    return str(ref.folder)


def _require_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise BaseModelError(
            f"the base in {folder} has no tokenizer ({' or '.join(_TOKENIZERS)}); "
            "save one there with tokenizer.save_pretrained"
        )


def _load(
    source: str, dtype: str, config: "Mapping[str, object]", options: Mapping[str, Any]
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    import torch

    loaded: Any = causal_lm_class(config).from_pretrained(
        source,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        attn_implementation=base_architecture(config).attention,
        use_cache=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    _require_all_loaded(source, report)
    keep_weights_as_stored(model)
    return model.eval(), _tokenizer(source, model.config.vocab_size)


def _tokenizer(source: str, vocabulary: int | None) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise BaseModelError(
            f"the tokenizer of {source} does not match the model: it has {len(tokenizer)} tokens, "
            f"the model has {vocabulary}; use a base with its own tokenizer"
        )
    return tokenizer


def _require_consistent(source: str) -> None:
    """Reject weights that are not the config's before transformers allocates what it describes."""
    if not Path(source).is_dir():
        return  # a hub id
    try:
        base = BaseFiles.open(source)
    except BaseModelError:
        return  # loading says what is wrong with a file
    base.require_consistent()


def _require_all_loaded(source: str, report: dict[str, Any]) -> None:
    """Reject what transformers only logs: it initializes missing weights randomly."""
    for kind, verb in (("missing_keys", "lack"), ("unexpected_keys", "contain the unknown")):
        names = sorted(report[kind])
        if names:
            shown = ", ".join(escape(name, 100) for name in names[:3])
            raise BaseModelError(
                f"the weights of {source} {verb} {shown}"
                f"{f' and {len(names) - 3} more' if len(names) > 3 else ''}; "
                "use a base whose config.json matches its weights"
            )


def _failure(ref: BaseRef, source: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {escape(str(error), 300)}"
    if source == ref.id and ref.folder != Path(source):
        return (
            f"cannot download the base {source}: {reason}; "
            "check the network, or download it elsewhere and pass its folder"
        )
    return f"cannot load the base from {source}: {reason}; download it again"
