"""Everything about a training config that can be checked before a base model is loaded."""

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.quantized_base import require_bitsandbytes
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import read_base_config, require_phi, resolve_base
from phi3_lora_qa.training.job import Job
from phi3_lora_qa.training.library_arguments import (
    Arguments,
    peft_arguments,
    quantization_arguments,
    require_loralib_settings,
    training_arguments,
)
from phi3_lora_qa.training.target_check import check_targets, linear_modules
from phi3_lora_qa.training.training_config import TrainConfig


def check_job(config: TrainConfig) -> Job:
    """Return the job that a config describes; mistakes are found before a base is loaded.

    Raises:
        InputError: A setting cannot be used.
        BaseModelError: The base is unknown, or is not a Phi-3 model.
        MissingDependencyError: A setting needs a package that is not installed.
    """
    with quiet():
        training = training_arguments(config.training)
        peft = peft_arguments(config.peft)
        quantization = quantization_arguments(config.quantization)
    if config.quantization:
        require_bitsandbytes("[quantization]")
    if config.engine.name == "loralib":
        _check_loralib(peft, quantization)
    optimizer = str(training.values.get("optim", ""))
    if "8bit" in optimizer or "paged" in optimizer or "bnb" in optimizer:
        require_bitsandbytes(f"[training] optim = '{optimizer}'")
    base = resolve_base(config.model.base)
    require_phi(base)
    modules = linear_modules(read_base_config(base))
    if modules:
        check_targets(peft.values["target_modules"], modules)
    return Job(config=config, base=base, training=training, peft=peft, quantization=quantization)


def _check_loralib(peft: Arguments, quantization: Arguments) -> None:
    from phi3_lora_qa.loralib_interop import require_loralib

    require_loralib()
    require_loralib_settings(peft)
    if quantization.values:
        raise InputError(
            "[quantization]: loralib's layers need the base's unquantized weights; "
            'remove the table, or use [engine] name = "peft"'
        )
