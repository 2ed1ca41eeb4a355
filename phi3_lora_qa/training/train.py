"""Fine-tune: a base and conversations in, a finished adapter folder out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.training_data import TrainingData, load_training_data
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, read_base_config, resolve_base
from phi3_lora_qa.training.hub_push import push_adapter
from phi3_lora_qa.training.library_arguments import (
    Arguments,
    peft_arguments,
    quantization_arguments,
    require_loralibs,
    training_arguments,
)
from phi3_lora_qa.training.quantization import require_bitsandbytes
from phi3_lora_qa.training.target_check import check_targets, phi3_modules
from phi3_lora_qa.training.training_config import TrainConfig, config_from_tables
from phi3_lora_qa.training.training_output import find_checkpoints, staged_output
from phi3_lora_qa.training.training_progress import LogEntry, Progress, Silent, progress_bar

if TYPE_CHECKING:
    from phi3_lora_qa.training.training_run import TrainingOutcome


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training left behind.

    Losses are in nats per learned token, on the validation rows before and after; ``notes`` says
    what was taken over from older names, cut or left out; ``pushed`` is the hub's address or "".
    """

    adapter: Path
    checkpoints: tuple[Path, ...]
    base: str
    loss_before: float
    loss_after: float
    train_loss: float
    steps: int
    trainable_parameters: int
    seconds: float
    log: tuple[LogEntry, ...]
    notes: tuple[str, ...]
    pushed: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run, with everything checked that can be checked without a model."""

    config: TrainConfig
    base: BaseRef
    training: Arguments
    peft: Arguments
    quantization: Arguments

    @property
    def is_loralib(self) -> bool:
        """Whether loralib's layers are trained, and not PEFT's."""
        return self.config.engine.name == "loralib"

    @property
    def resume(self) -> str | bool | None:
        """What the Trainer is told to resume from."""
        resume: str | bool | None = self.training.values.get("resume_from_checkpoint")
        return resume


def train(  # noqa: PLR0913 - the source's two dictionaries, and what they cannot say
    model: str | Path,
    data: str | Path,
    training_config: Mapping[str, Any] | None = None,
    peft_config: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    *,
    validation: str | Path | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    quantization_config: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> TrainResult:
    """Fine-tune a base with LoRA and save the adapter.

    Args:
        model: A known base (``tiny``, ``smollm2``, ``microsoft/Phi-3-mini-4k-instruct``, ...) or
            a folder that holds one.
        data: JSON lines of ``{"messages": [{"role", "content"}, ...]}``.
        training_config: Keyword arguments of TRL's SFTConfig, by their own names.
        peft_config: Keyword arguments of PEFT's LoraConfig, by their own names.
        output_dir: The adapter folder; the training_config's ``output_dir`` where it is None.
        validation: Rows to evaluate on; None splits them off ``data``.
        validation_fraction: Share of the rows that is split off.
        split_seed: Draws the split.
        dtype: Of the base: "auto", "float32", "bfloat16" or "float16".
        attn_implementation: "sdpa", "eager" or "flash_attention_2".
        quantization_config: Keyword arguments of transformers' BitsAndBytesConfig, for QLoRA.
        engine: The [engine] table, such as ``{"name": "loralib", "masks": {...}}``.
        overwrite: Replace an adapter that is already there.
        show_progress: Show a bar and the logged losses on stderr.

    Raises:
        InputError: A setting, a data row or the base cannot be used; nothing was saved.
        MissingDependencyError: A setting needs a package that is not installed.
    """
    tables: dict[str, Any] = {
        "model": {"base": str(model), "dtype": dtype, "attn_implementation": attn_implementation},
        "data": {
            "train": Path(data),
            "validation": None if validation is None else Path(validation),
            "validation_fraction": validation_fraction,
            "seed": split_seed,
        },
        "training": dict(training_config or {}),
        "peft": dict(peft_config or {}),
        "quantization": dict(quantization_config or {}),
        "engine": dict(engine or {}),
        "output": {} if output_dir is None else {"dir": Path(output_dir)},
    }
    if overwrite:
        tables["output"]["overwrite"] = True
    config = config_from_tables(tables, "train()")
    if not show_progress:
        return train_from_config(config)
    with progress_bar() as progress:
        return train_from_config(config, progress)


def train_from_config(config: TrainConfig, progress: Progress | None = None) -> TrainResult:
    """Fine-tune as a config says; see :func:`train`.

    Raises:
        InputError: As :func:`train`.
        MissingDependencyError: As :func:`train`.
    """
    began = time.monotonic()
    tell = progress or Silent()
    tell.phase("reading the data")
    data = load_training_data(
        config.data.train,
        config.data.validation,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.seed,
    )
    tell.phase("checking the settings")
    job = check_job(config)
    with staged_output(config.output, job.resume) as places, quiet():
        from phi3_lora_qa.training.save_adapter import write_adapter
        from phi3_lora_qa.training.training_run import run

        trained = run(job, data, places, tell)
        notes = (*job.training.notes, *job.peft.notes, *_data_notes(data, trained))
        result = TrainResult(
            adapter=places.adapter,
            checkpoints=tuple(find_checkpoints(places.checkpoints)),
            base=job.base.id,
            loss_before=trained.loss_before,
            loss_after=trained.loss_after,
            train_loss=trained.train_loss,
            steps=trained.steps,
            trainable_parameters=trained.trainable_parameters,
            seconds=time.monotonic() - began,
            log=trained.log,
            notes=notes,
        )
        tell.phase("saving the adapter")
        write_adapter(places.staging, trained, result, job, data)
    if not config.hub.repo_id:
        return result
    tell.phase("pushing the adapter")
    return replace(result, pushed=push_adapter(result.adapter, config.hub))


def check_job(config: TrainConfig) -> Job:
    """Check all that needs no weights: a mistake must not cost the loading of a base.

    Raises:
        InputError: A setting cannot be used.
        BaseModelError: The base is not known, or no Phi-3.
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
    known = phi3_modules(read_base_config(base))
    if known:
        check_targets(peft.values["target_modules"], known)
    return Job(config=config, base=base, training=training, peft=peft, quantization=quantization)


def _check_loralib(peft: Arguments, quantization: Arguments) -> None:
    from phi3_lora_qa.loralib_interop import require_loralib

    require_loralib()
    require_loralibs(peft)
    if quantization.values:
        raise InputError(
            "[quantization]: loralib's layers need the base's weights as they are; "
            'leave the table out, or use [engine] name = "peft"'
        )


def _data_notes(data: TrainingData, trained: "TrainingOutcome") -> list[str]:
    notes = []
    if data.leaked:
        notes.append(f"{data.leaked} validation rows were left out: their prompts are trained on")
    if data.repeated:
        notes.append(f"{data.repeated} training rows repeat another one word for word")
    if trained.cut:
        notes.append(
            f"{trained.cut} rows are longer than max_length and were cut, stop token and all; "
            "raise training.max_length to learn where they end"
        )
    return notes
