"""Fine-tune a base model on conversations and write an adapter folder: check, run, save, push."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.training_data import (
    TrainingData,
    load_training_data,
    require_plain_answers,
)
from phi3_lora_qa.data.turn_tokens import WELL_KNOWN
from phi3_lora_qa.extras import require_extra
from phi3_lora_qa.models.base_turn_tokens import read_turn_tokens
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.training.check_job import check_job
from phi3_lora_qa.training.hub_push import push_adapter
from phi3_lora_qa.training.job import Job, TrainingOutcome, TrainResult
from phi3_lora_qa.training.training_config import TrainConfig, config_from_tables
from phi3_lora_qa.training.training_output import (
    TrainingFolders,
    find_checkpoints,
    training_folders,
)
from phi3_lora_qa.training.training_progress import TrainingCallbacks, progress_bar


def train(  # noqa: PLR0913 - the two dictionaries of the Phi-3 cookbook, and what they lack
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
    """Fine-tune a base model with LoRA and write the adapter folder.

    Args:
        model: A known base, such as ``microsoft/Phi-3-mini-4k-instruct``, or the folder of one.
        data: JSON lines of ``{"messages": [{"role", "content"}, ...]}``.
        training_config: Keyword arguments of TRL's SFTConfig.
        peft_config: Keyword arguments of PEFT's LoraConfig.
        output_dir: The adapter folder; None uses ``training_config["output_dir"]``.
        validation: Rows to evaluate on; None splits them off ``data``.
        validation_fraction: Share of the rows to split off, in (0, 1).
        split_seed: Seed of that split.
        dtype: Dtype of the base: "auto", "float32", "bfloat16" or "float16".
        attn_implementation: "sdpa", "eager" or "flash_attention_2".
        quantization_config: Keyword arguments of transformers' BitsAndBytesConfig, for QLoRA.
        engine: The [engine] table, such as ``{"name": "loralib", "masks": {...}}``.
        overwrite: Replace an adapter that already exists.
        show_progress: Show a progress bar and the logged losses on stderr.

    Returns:
        The adapter folder, the losses in nats per learned token, and the log.

    Raises:
        InputError: A setting, a data row or the base cannot be used; nothing was saved.
        MissingDependencyError: A setting needs a package that is not installed.

    Example:
        >>> from phi3_lora_qa import train
        >>> train("tiny", "rows.jsonl", {"max_steps": 10}, {"r": 16})
        Traceback (most recent call last):
        phi3_lora_qa.errors.InputError: train() [output]: dir is missing; set it there
    """
    tables: dict[str, Any] = {
        "model": {"base": str(model), "dtype": dtype, "attn_implementation": attn_implementation},
        "data": _data_table(data, validation, validation_fraction, split_seed),
        "output": _output_table(output_dir, overwrite),
        "training": dict(training_config or {}),
        "peft": dict(peft_config or {}),
        "quantization": dict(quantization_config or {}),
        "engine": dict(engine or {}),
    }
    config = config_from_tables(tables, "train()")
    with progress_bar() if show_progress else nullcontext() as callbacks:
        return train_from_config(config, callbacks)


def train_from_config(
    config: TrainConfig, callbacks: TrainingCallbacks | None = None
) -> TrainResult:
    """Fine-tune as a config describes; see :func:`train`.

    Args:
        config: From :func:`~phi3_lora_qa.training.load_config`.
        callbacks: Called with the progress and with each logged loss.

    Returns:
        As :func:`train`.

    Raises:
        InputError: As :func:`train`.
        MissingDependencyError: As :func:`train`.
    """
    require_extra("train", "training")
    began = time.monotonic()
    calls = callbacks or TrainingCallbacks()
    calls.on_progress("reading the data", 0, 0)
    data = load_training_data(
        config.data.train,
        config.data.validation,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.seed,
    )
    calls.on_progress("checking the settings", 0, 0)
    job = check_job(config)
    files = filter(None, (config.data.train, config.data.validation))
    require_plain_answers(tuple(files), read_turn_tokens(job.base) or WELL_KNOWN)
    with training_folders(config.output, job.resume) as folders, quiet():
        from phi3_lora_qa.training.save_adapter import write_adapter
        from phi3_lora_qa.training.training_run import run_training

        outcome = run_training(job, data, folders, calls)
        result = _result(job, data, outcome, folders, time.monotonic() - began)
        calls.on_progress("saving the adapter", 0, 0)
        write_adapter(folders.staging, outcome, result, job, data)
    if not config.hub.repo_id:
        return result
    calls.on_progress("pushing the adapter", 0, 0)
    return replace(result, pushed=push_adapter(result.adapter, config.hub))


def _data_table(
    train: str | Path, validation: str | Path | None, fraction: float, seed: int
) -> dict[str, Any]:
    held_out = None if validation is None else Path(validation)
    rows = {"train": Path(train), "validation": held_out}
    return {**rows, "validation_fraction": fraction, "seed": seed}


def _output_table(output_dir: str | Path | None, overwrite: bool) -> dict[str, Any]:
    output: dict[str, Any] = {} if output_dir is None else {"dir": Path(output_dir)}
    return output | ({"overwrite": True} if overwrite else {})


def _result(
    job: Job, data: TrainingData, outcome: TrainingOutcome, folders: TrainingFolders, seconds: float
) -> TrainResult:
    return TrainResult(
        adapter=folders.adapter,
        checkpoints=tuple(find_checkpoints(folders.checkpoints)),
        base=job.base.id,
        loss_before=outcome.loss_before,
        loss_after=outcome.loss_after,
        train_loss=outcome.train_loss,
        steps=outcome.steps,
        trainable_parameters=outcome.trainable_parameters,
        seconds=seconds,
        log=outcome.log,
        notes=(*job.training.notes, *job.peft.notes, *_data_notes(data, outcome)),
    )


def _data_notes(data: TrainingData, outcome: TrainingOutcome) -> list[str]:
    notes = []
    if data.leaked:
        notes.append(
            f"{data.leaked} validation rows were left out because their prompts are in the "
            "training rows"
        )
    if data.repeated:
        notes.append(f"{data.repeated} training rows are exact duplicates of earlier rows")
    if outcome.truncated:
        notes.append(
            f"{outcome.truncated} rows are longer than max_length and were cut, including their "
            "stop token; raise training.max_length to train on their ends"
        )
    return notes
