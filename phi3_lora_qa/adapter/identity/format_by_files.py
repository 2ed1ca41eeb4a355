"""Recognizes other formats by the names of the files and sub-folders."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phi3_lora_qa.adapter.folder import PICKLED_WEIGHTS, WEIGHTS
from phi3_lora_qa.adapter.identity.foreign_format import (
    MLX_FIX,
    NEMO_FIX,
    TORCHTUNE_FIX,
    TRAIN_LORA,
    WHOLE_MODEL_FIX,
    ForeignFormat,
)
from phi3_lora_qa.adapter.weight_shards import find_shards

_OLD_MLX_FIX = (
    'in its folder, run: python -c "import numpy; from safetensors.numpy import save_file; '
    "save_file(dict(numpy.load('adapters.npz')), 'adapters.safetensors')\"; then convert it: "
    + MLX_FIX
)
_SHARDS_FIX = (
    "load the shards into the model with which you trained, and save it with peft's save_pretrained"
)
_DEEPSPEED_FIX = (
    "load it into the PeftModel with which you trained, and save that: "
    "deepspeed.utils.zero_to_fp32.load_state_dict_from_zero_checkpoint(model, FOLDER)"
    ".save_pretrained(DIR)"
)
_DCP_FIX = (
    "set the state dict type to FULL_STATE_DICT, resume the training from this checkpoint, and "
    "call trainer.save_model"
)
_CHECKPOINT_FIX = (
    "pass the folder that peft's save_pretrained wrote; if there is none, resume the training from "
    "this checkpoint and call save_pretrained on the PeftModel"
)


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A format that a file name shows; ``alone`` if only a folder without PEFT's files has it."""

    names: str
    kind: str
    fix: str
    alone: bool = False


_FORMATS = (
    _Format(
        names=r".+\.gguf|.+\.ggml|ggml-.+\.bin",
        kind="a GGUF file of llama.cpp",
        fix="pass the folder from which it was converted; GGUF is not converted back",
    ),
    _Format(
        names=r".*lora_weights\.npy|.+\.engine|.+\.plan",
        kind="an engine or adapter of TensorRT-LLM",
        fix="pass the folder from which it was converted",
    ),
    _Format(
        names=r".+\.onnx(_adapter|_data)?|.+\.(tflite|mlmodel|mlpackage|task)|openvino_model\.xml",
        kind="an exported model or adapter (ONNX, OpenVINO, Core ML, TFLite)",
        fix="pass the folder from which it was exported",
    ),
    _Format(
        names=r"(\d+_)?adapters\.safetensors",
        kind="an adapter of mlx-lm",
        fix=f"convert it: {MLX_FIX}",
    ),
    _Format(names=r"(\d+_)?adapters\.npz", kind="an old adapter of mlx-lm", fix=_OLD_MLX_FIX),
    _Format(
        names=r"pytorch_lora_weights\.(safetensors|bin)",
        kind="a LoRA of a diffusion model, written by diffusers",
        fix="load it with diffusers' load_lora_weights; it does not fit a language model",
    ),
    _Format(
        names=r"lit_model.*\.pth.*|lit_config\.json",
        kind="a LitGPT checkpoint",
        fix=f"LitGPT's LoRA cannot be converted: {TRAIN_LORA}",
    ),
    _Format(
        names=r"adapter_\d+\.pt|adapter_model\.pt|recipe_state\.pt",
        kind="an adapter of torchtune in its own format",
        fix=f"convert its adapter_model.pt or adapter_0.pt: {TORCHTUNE_FIX} --allow-pickle",
    ),
    _Format(
        names=r".+\.nemo|model_weights\.ckpt|model_weights|latest_checkpointed_iteration\.txt"
        r"|iter_\d{5,}",
        kind="a checkpoint of NeMo or Megatron",
        fix=NEMO_FIX,
    ),
    _Format(
        names=r"global_step\d+|(bf16_|fp16_)?zero_pp_rank_.+|mp_rank_\d+.+|zero_to_fp32\.py",
        kind="a training checkpoint of DeepSpeed",
        fix=_DEEPSPEED_FIX,
    ),
    _Format(
        names=r".+\.distcp|pytorch_model_fsdp_\d+|pytorch_model_fsdp\.bin",
        kind="a sharded training checkpoint (FSDP or torch.distributed.checkpoint)",
        fix=_DCP_FIX,
    ),
    _Format(
        names=r"pytorch_adapter\.bin|pytorch_model_head\.bin|adapter\.bin",
        kind="an adapter of the library `adapters` (AdapterHub)",
        fix=TRAIN_LORA,
    ),
)

_NEMO = {"weights", "context"}
"""The sub-folders of a checkpoint of NeMo 2."""

_TRAINING = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin")
_WHOLE = re.compile(
    r"(pytorch_model|model|consolidated|tf_model|flax_model|hf_model)"
    r"([._-]\d+(-of-|_)?\d*)?\.(safetensors|bin|pth|pt|h5|msgpack)(\.index\.json)?"
)
_LATE = (
    _Format(
        names=r"checkpoint-\d+",
        kind="the output folder of a training without adapters in its checkpoints",
        fix=_CHECKPOINT_FIX,
        alone=True,
    ),
    _Format(
        names=r"rank_?\d+.*\.(pt|safetensors|bin)",
        kind="the shards of several processes",
        fix=_SHARDS_FIX,
        alone=True,
    ),
    _Format(
        names=r".+\.(zip|tar|tgz|tar\.gz|tar\.xz|tar\.bz2|tar\.zst|7z|rar)",
        kind="an archive",
        fix="unpack the archive, and pass the folder in it that contains adapter_config.json",
        alone=True,
    ),
)


def format_by_files(names: Sequence[str], *, is_peft: bool) -> ForeignFormat | None:
    """Return the format that the names in a folder without PEFT's weights show, or None.

    Args:
        names: The files and sub-folders.
        is_peft: Whether adapter_config.json is one of PEFT's LoRA.
    """
    if WEIGHTS in names or PICKLED_WEIGHTS in names or find_shards(names):
        return None
    if found := _first(_FORMATS, names, is_peft=is_peft):
        return found
    if set(names) >= _NEMO:
        return ForeignFormat(
            kind="a checkpoint of NeMo",
            where="weights",
            found="the folder contains weights and context",
            fix=NEMO_FIX,
        )
    whole = [name for name in names if _WHOLE.fullmatch(name)]
    training = [name for name in names if name in _TRAINING]
    if whole:
        state = f", with the training's state ({training[0]})" if training else ""
        return ForeignFormat(
            kind="a complete model",
            where=whole[0],
            found=f"it has {whole[0]} and no {WEIGHTS}{state}",
            fix=WHOLE_MODEL_FIX,
        )
    if training and not is_peft:
        return ForeignFormat(
            kind="a training checkpoint without an adapter",
            where=training[0],
            found=f"it has {', '.join(training)} and no {WEIGHTS}",
            fix=_CHECKPOINT_FIX,
        )
    return _first(_LATE, names, is_peft=is_peft)


def _first(
    formats: Iterable[_Format], names: Sequence[str], *, is_peft: bool
) -> ForeignFormat | None:
    for each in formats:
        if each.alone and is_peft:
            continue
        shown = next((name for name in names if re.fullmatch(each.names, name)), "")
        if shown:
            return ForeignFormat(
                kind=each.kind, where=shown, found=f"the folder contains {shown}", fix=each.fix
            )
    return None
