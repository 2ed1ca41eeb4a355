"""Family basemodel: the base is not quantised."""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse, base_rule
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.finding import FieldOf, Violation

_NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "fp8": "float8",
    "fbgemm_fp8": "float8",
    "compressed-tensors": "compressed-tensors",
    "hqq": "HQQ",
    "quanto": "Quanto",
    "torchao": "torchao",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
}
_SUFFIXES = (
    (".g_idx", "GPTQ"),
    (".qweight", "GPTQ or AWQ"),
    (".weight_packed", "compressed-tensors"),
    (".weight.absmax", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".W_q", "HQQ"),
    (".biases", "MLX"),
)


@base_rule(
    "basemodel-quantised",
    title="The base's weights are not quantised",
    why="A quantised weight is not stored as numbers that can be compared, so the linter "
    "cannot compare deltas with the base, and the gate cannot measure and merge its modules.",
    fix="pass the base from which it was quantised, in bfloat16 or float16",
    blocks=(BaseUse.LOADING,),
)
def base_is_not_quantised(base: BaseView) -> Iterator[Violation]:
    """Read the quantisation that config.json names, or the names and dtypes of the tensors."""
    field, settings = _settings(base.files.config)
    method = _method(settings) or _method_of_tensors(base.files)
    if not method:
        return
    bits = _bits(settings)
    place = FieldOf("config.json", field) if field else "model.safetensors"
    yield Violation(
        place,
        f"the base is quantised with {method}{f' ({bits} bits)' if bits else ''}; its weights are "
        "not compared with the adapter's",
    )


def _settings(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    for name in ("quantization_config", "compression_config", "quantization"):
        found = config.get(name)
        if isinstance(found, dict) and found:
            return name, found
    return "", {}


def _method(settings: Mapping[str, Any]) -> str:
    """Return the method that config.json names; empty if it names none."""
    if not settings:
        return ""
    named = settings.get("quant_method")
    if isinstance(named, str) and named:
        return _NAMES.get(named.lower(), named)
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return "MLX" if "group_size" in settings and "mode" in settings else "an unknown method"


def _bits(settings: Mapping[str, Any]) -> int:
    """Return the bits of a weight that config.json names; 0 if it names none."""
    for name in ("bits", "w_bit", "nbits"):
        if type(bits := settings.get(name)) is int:
            return bits
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        return 4
    return 8 if settings.get("load_in_8bit") or settings.get("_load_in_8bit") else 0


def _method_of_tensors(files: BaseFiles) -> str:
    """Return the method that the weights show; empty if they are not quantised."""
    tensors = {name: info.dtype for file in files.files for name, info in file.tensors.items()}
    packed = {name for name, dtype in tensors.items() if "_proj." in name and dtype[0] in "IU"}
    eight = [name for name, dtype in tensors.items() if "_proj." in name and dtype[:2] == "F8"]
    if eight:
        return "float8"
    if not packed:
        return ""
    for suffix, method in _SUFFIXES:
        if any(name.endswith(suffix) for name in tensors if "_proj." in name):
            return method
    return "an unknown method, into integers"
