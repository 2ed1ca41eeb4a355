"""Recognizes other formats by the names of the tensors."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from phi3_lora_qa.adapter.identity.foreign_format import (
    KOHYA_FIX,
    LORALIB_FIX,
    MLX_FIX,
    NEMO_FIX,
    TORCHTUNE_FIX,
    TRAIN_LORA,
    WHOLE_MODEL_FIX,
    ForeignFormat,
)
from phi3_lora_qa.adapter.tensor_names import PREFIX

_FACTORS_ONLY = (
    'keep its factors: in its folder, run: python -c "from safetensors.torch import load_file, '
    "save_file; t = load_file('{file}'); save_file({{n.replace('.default', ''): v for n, v in "
    "t.items() if 'lora_' in n}}, 'adapter_model.safetensors', {{'format': 'pt'}})\""
)
_DIFFUSION_FIX = "use it with the program for which it was trained; it fits no language model"
_PACKED_FIX = (
    "save it with peft's save_pretrained in float32, bfloat16 or float16; quantise only the base"
)


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A format that the names of tensors show, if at least half of them match ``names``."""

    names: re.Pattern[str]
    kind: str
    fix: str


def _format(names: str, kind: str, fix: str) -> _Format:
    return _Format(names=re.compile(names), kind=kind, fix=fix)


_NOT_PEFT = rf"(?!{re.escape(PREFIX)})"
_NOT_DECODER = r"(?!lora_[a-z0-9]+_(model_)?layers_\d+_(self_attn|mlp)_[a-z_]+_proj\.)"
"""Some programs give a language model's layers the prefix that kohya has for diffusion models."""

_FORMATS = (
    _format(
        _NOT_DECODER
        + r"lora_(unet|te\d?|transformer)_.*\.(lora_(down|up)\.weight|alpha)|diffusion_model\..*",
        "a LoRA of a diffusion model, in kohya's format",
        _DIFFUSION_FIX,
    ),
    _format(
        r"(unet|text_encoder(_\d)?|prior|transformer\.(single_)?transformer_blocks)\..*lora.*",
        "a LoRA of a diffusion model, written by diffusers",
        "load it with diffusers' load_lora_weights; it fits no language model",
    ),
    _format(
        _NOT_PEFT + r".*(\.lora_(down|up)\.weight|\.alpha)",
        "an adapter in the format of kohya's sd-scripts",
        f"convert the file: {KOHYA_FIX}",
    ),
    _format(
        _NOT_PEFT + r".*\.(hada_w\d_\w|lokr_w\d(_\w)?|oft_(blocks|diag)|dora_scale|lora_mid.*)",
        "an adapter of LyCORIS",
        TRAIN_LORA,
    ),
    _format(
        _NOT_PEFT
        + r"(layers\.\d+\.(attn|mlp)\..*|output|tok_embeddings)\.(lora_[ab]\.weight|magnitude)",
        "an adapter of torchtune in its own format",
        f"convert the file: {TORCHTUNE_FIX}",
    ),
    _format(
        _NOT_PEFT + r".*\.(lora_[ab]|m)",
        "an adapter of mlx-lm",
        f"convert it: {MLX_FIX}",
    ),
    _format(
        _NOT_PEFT + r".*_proj\.[AB]",
        "an adapter of mlx-vlm",
        f"mlx-vlm's adapters cannot be converted: {TRAIN_LORA}",
    ),
    _format(
        _NOT_PEFT + r".*(\.adapter\.linear_(in|out)\.|adapter_layer\.|linear_qkv\.).*",
        "an adapter of NeMo or Megatron",
        NEMO_FIX,
    ),
    _format(
        _NOT_PEFT + r"transformer\.h\.\d+\.(attn|mlp)\..*\.lora_[AB]",
        "a LitGPT checkpoint",
        f"LitGPT's LoRA cannot be converted: {TRAIN_LORA}",
    ),
)
_LORALIB = _format(
    _NOT_PEFT + r".*\.lora_[AB]", "a checkpoint of loralib", f"convert the file: {LORALIB_FIX}"
)
_OTHER_TYPES = (
    ("ADALORA", r"\.lora_E(\.|$)"),
    ("IA3", r"\.ia3_l(\.|$)"),
    ("LOHA", r"\.hada_w\d"),
    ("LOKR", r"\.lokr_w\d"),
    ("OFT or BOFT", r"\.b?oft_[rRs](\.|$)"),
    ("VERA", r"\.vera_lambda_"),
    ("VBLORA", r"\.vblora_"),
    ("HRA", r"\.hra_u"),
    ("XLORA", r"xlora_classifier"),
    ("FOURIERFT", r"\.fourierft_"),
    ("a type with trained prompts", r"^(prompt_embeddings|prefix_.*|.*prompt_encoder.*)$"),
)
_PACKED = re.compile(r"lora_.*[._](packed|scale|shape|zero_point|qweight|qzeros|absmax|quant_map)$")
_LAYER_WEIGHT = re.compile(
    r"(.*\.)?(layers|h|blocks?|layer)\.\d+\..*(proj|dense|fc\d?|attn|mlp|linear)\w*\.weight"
)
_BASE_LAYER = re.compile(r"(.*)\.base_layer\.weight")
_FACTOR = re.compile(r"(.*)\.lora_[AB]\.")


def format_by_tensors(names: Collection[str], file: str, *, is_peft: bool) -> ForeignFormat | None:
    """Return the format that the names in a file of weights show; None if they may be PEFT's.

    Args:
        names: The names of all tensors of the file.
        file: The name of the file.
        is_peft: Whether adapter_config.json is one of PEFT's LoRA.
    """
    known = list(names)
    for recognize in (_packed, _other_type, _complete_state):
        if found := recognize(known, file):
            return found
    for each in (*_FORMATS, *(() if is_peft else (_LORALIB,))):
        matching = [name for name in known if each.names.fullmatch(name)]
        if matching and 2 * len(matching) >= len(known):
            return ForeignFormat(kind=each.kind, where=file, found=_shown(matching), fix=each.fix)
    layers = [name for name in known if _LAYER_WEIGHT.fullmatch(name)]
    if len(layers) > 1 and not any("lora" in name.lower() for name in known):
        return ForeignFormat(
            kind="the weights of a complete model",
            where=file,
            found=f"{file} has no factors; {_shown(layers)}",
            fix=WHOLE_MODEL_FIX,
        )
    return None


def _packed(names: Sequence[str], file: str) -> ForeignFormat | None:
    packed = [name for name in names if _PACKED.search(name)]
    if not packed:
        return None
    return ForeignFormat(
        kind="a LoRA adapter with quantised factors",
        where=file,
        found=f"the factors were packed when they were saved; {_shown(packed)}",
        fix=_PACKED_FIX,
    )


def _other_type(names: Sequence[str], file: str) -> ForeignFormat | None:
    for kind, pattern in _OTHER_TYPES:
        found = [name for name in names if re.search(pattern, name)]
        is_peft = [name for name in found if name.startswith("base_model.") or "prompt" in name]
        if is_peft and 4 * len(found) >= len(names):
            return ForeignFormat(
                kind=f"an adapter of type {kind}",
                where=file,
                found=_shown(found),
                fix=f"only LoRA is checked here: {TRAIN_LORA}",
            )
    return None


def _complete_state(names: Sequence[str], file: str) -> ForeignFormat | None:
    """Recognize the state of a whole PeftModel: the base's weights and the factors together."""
    stripped: Callable[[str], str] = lambda name: name.removeprefix(PREFIX)  # noqa: E731
    whole = {stripped(found[1]) for name in names if (found := _BASE_LAYER.fullmatch(name))}
    adapted = {stripped(found[1]) for name in names if (found := _FACTOR.match(name))}
    if len(adapted) < 2 or not adapted <= whole:
        return None
    return ForeignFormat(
        kind="the state of a complete PeftModel",
        where=file,
        found=f"it has the base's weights of all {len(adapted)} adapted modules, too",
        fix=_FACTORS_ONLY.format(file=file),
    )


def _shown(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"one tensor is called {names[0][:160]}"
    return f"{len(names)} tensors have names such as {names[0][:160]}"
