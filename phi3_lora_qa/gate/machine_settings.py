"""What the settings mean on this machine: the device and the dtype that ``auto`` stands for."""

from collections.abc import Mapping
from dataclasses import replace

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.devices import choose_device, default_dtype
from phi3_lora_qa.models.quantized_base import require_bitsandbytes
from phi3_lora_qa.setting_specs import AUTO, UNQUANTIZED, server_of
from phi3_lora_qa.settings import DEFAULT, GateSettings

_WITHOUT_MODEL = {"static"}


def on_this_machine(settings: GateSettings) -> GateSettings:
    """Return the settings with a device that exists and a dtype, if any stage runs a model.

    The process that starts a run does this once for all processes.

    Raises:
        InputError: The machine has no such device, or a server is to score a quantized base.
        MissingDependencyError: The base is to be quantized, and bitsandbytes is not installed.
    """
    if set(settings.stage) <= _WITHOUT_MODEL:
        return settings
    if settings.quantization != UNQUANTIZED:
        if server_of(settings.backend):
            raise InputError(
                f"--phi3-quantization {settings.quantization} has no effect: a server scores the "
                "models, as it has loaded them; remove one of --phi3-quantization and "
                "--phi3-backend"
            )
        require_bitsandbytes(f"--phi3-quantization {settings.quantization}")
    device = choose_device(settings.device)
    dtype = default_dtype(device) if settings.dtype == AUTO else settings.dtype
    return replace(settings, device=device, dtype=dtype)


def describe_machine(settings: GateSettings) -> Mapping[str, Json]:
    """Return the dtype and where it comes from, and the quantization, for the environment."""
    if settings.dtype == AUTO:
        return {}  # no stage ran a model
    source = settings.sources.get("dtype", DEFAULT)
    chosen = f"the default on {settings.device}" if source == DEFAULT else str(source)
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "dtype_source": chosen,
        **({"quantization": settings.quantization} if settings.quantization != UNQUANTIZED else {}),
    }
