"""One training run in memory: load the base, build TRL's trainer, evaluate, train, evaluate."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.data.training_data import TrainingData
from phi3_lora_qa.errors import InputError, MissingDependencyError, Phi3LoraQAError, escape
from phi3_lora_qa.loralib_interop import LoralibConfig
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.registry import base_fingerprint
from phi3_lora_qa.models.threads import fitting_threads
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.training.labels import Labelled, label_rows, stop_texts
from phi3_lora_qa.training.quantization import load_quantized, quantization_config
from phi3_lora_qa.training.target_check import check_targets, linear_names
from phi3_lora_qa.training.training_output import Places
from phi3_lora_qa.training.training_progress import LogEntry, Progress

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from phi3_lora_qa.training.sft_trainer import LocalTrainer, Watcher
    from phi3_lora_qa.training.train import Job

_SET_WHEN_SAVED = {"inference_mode", "auto_mapping", "peft_version"}


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """A tuned model in memory, and what its training measured. Losses: nats per learned token.

    ``save`` writes the adapter into a folder, as the engine that trained it does.
    """

    model: Any
    save: Callable[[Path], None]
    tokenizer: Any
    base_fingerprint: str
    dtype: str
    seed: int
    loss_before: float
    loss_after: float
    train_loss: float
    steps: int
    trainable_parameters: int
    cut: int
    log: tuple[LogEntry, ...]


def run(job: "Job", data: TrainingData, places: Places, tell: Progress) -> TrainingOutcome:
    """Train as the job says; nothing but checkpoints is written.

    Raises:
        InputError: The libraries refuse a setting, a loss is no number, or nothing was learned.
    """
    from peft import LoraConfig

    from phi3_lora_qa.training.sft_trainer import Watcher, build_trainer

    tell.phase("loading the base")
    dtype = resolve_dtype(job.config.model.dtype)
    base, identity = _load(job, dtype)
    values = {**training_defaults(dtype, places.checkpoints), **job.training.values}
    train, held_out = _label(base, data, values)
    watcher = Watcher(tell)
    with _settings():
        trainer = build_trainer(
            base=base,
            training=values,
            adapter=_loralib(job, base) if job.is_loralib else LoraConfig(**job.peft.values),
            train_rows=train.rows,
            validation_rows=held_out.rows,
            watcher=watcher,
        )
    if places.resume is not None and not job.is_loralib:
        tuned: Any = trainer.model
        require_same_adapter(places.resume, tuned.peft_config["default"])
    start = _trainable(trainer.model)
    with fitting_threads(trainer.model):
        tell.phase("evaluating the base")
        before = trainer.evaluate()["eval_loss"]
        tell.phase("training")
        resume = None if places.resume is None else str(places.resume)
        outcome = trainer.train(resume_from_checkpoint=resume)
        tell.phase("evaluating the adapter")
        after = _final_loss(trainer, watcher)
    require_learned(start, _trainable(trainer.model))
    return TrainingOutcome(
        model=trainer.model,
        save=trainer.save_adapter,
        tokenizer=base.tokenizer,
        base_fingerprint=identity,
        dtype=dtype,
        seed=trainer.args.seed,
        loss_before=before,
        loss_after=after,
        train_loss=outcome.training_loss,
        steps=outcome.global_step,
        trainable_parameters=sum(tensor.numel() for tensor in start.values()),
        cut=train.cut + held_out.cut,
        log=tuple(watcher.entries),
    )


def resolve_dtype(wanted: str) -> str:
    """Return the base's dtype; "auto" is bfloat16 on a GPU that has it, else float32."""
    import torch

    if wanted != "auto":
        return wanted
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bfloat16" if gpu else "float32"


def training_defaults(dtype: str, checkpoints: Path) -> dict[str, Any]:
    """Return what differs from SFTConfig's own defaults, which are made for a GPU.

    On a CPU mixed precision and gradient checkpointing only cost time. Loss filtering is off: it
    writes the last finite loss in the place of one that is NaN.
    """
    import torch

    defaults: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "seed": 0,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "prediction_loss_only": True,
        "bf16": dtype == "bfloat16",
    }
    if not torch.accelerator.is_available():
        defaults |= {
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
        }
    return defaults


def require_learned(start: Mapping[str, "torch.Tensor"], end: Mapping[str, "torch.Tensor"]) -> None:
    """Refuse an adapter that is not finite, or that training has not moved.

    LoRA begins with one zero factor in every pair; while it stays zero, so does the delta,
    whatever weight decay does to the other. Which factor it is depends on the variant.

    Raises:
        InputError: With what to change.
    """
    import torch

    for name, tensor in end.items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"after training {name} holds values that are no numbers, and no adapter is saved; "
                "lower training.learning_rate"
            )
    zeros = [name for name, tensor in start.items() if not tensor.any()]
    if all(torch.equal(start[name], end[name]) for name in zeros or start):
        raise InputError(
            "training has changed nothing, and no adapter is saved; "
            "raise training.learning_rate or train more steps"
        )


def require_same_adapter(checkpoint: Path, config: "PeftConfig") -> None:
    """Refuse to go on from a checkpoint of another adapter.

    Some settings (the rank) end in a library's error then, and others (alpha) in an adapter that
    is neither the one nor the other.

    Raises:
        InputError: With the setting that differs.
    """
    try:
        then = json.loads(read_text(checkpoint / CONFIG, 1 << 20))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {CONFIG} of the checkpoint {checkpoint}: {error}; name another one"
        ) from error
    now = json.loads(json.dumps(config.to_dict(), default=sorted))
    for name in sorted(now.keys() - _SET_WHEN_SAVED):
        before, after = (
            sorted(v) if isinstance(v, list) else v for v in (then.get(name), now[name])
        )
        if before != after:
            raise InputError(
                f"the checkpoint {checkpoint} was trained with {name} = "
                f"{escape(repr(before), 100)}, not {escape(repr(after), 100)}; set that back, or "
                "drop training.resume_from_checkpoint"
            )


def _final_loss(trainer: "LocalTrainer", watcher: "Watcher") -> float:
    """Return the validation loss of what is saved, which the last step may just have told."""
    last = watcher.entries[-1]
    is_told = last.kind == "eval" and last.step == trainer.state.global_step
    if is_told and not trainer.args.load_best_model_at_end:
        return last.loss
    return float(trainer.evaluate()["eval_loss"])


def _load(job: "Job", dtype: str) -> tuple[LoadedBase, str]:
    """Load the base, take its fingerprint before anything touches it, and check the targets."""
    plain = load_base(job.base, dtype)
    identity = base_fingerprint(job.base)
    check_targets(job.peft.values["target_modules"], linear_names(plain.model))
    if job.quantization.values:
        tokenizer = plain.tokenizer
        del plain  # one copy of the weights at a time
        config = quantization_config(job.quantization.values)
        model = load_quantized(job.base, config, dtype)
        return LoadedBase(model=model, tokenizer=tokenizer, ref=job.base), identity
    if job.config.model.attn_implementation:
        with _settings():
            plain.model.set_attn_implementation(job.config.model.attn_implementation)
    return plain, identity


def _loralib(job: "Job", base: LoadedBase) -> LoralibConfig:
    """Return what loralib is told for the same [peft] table; PEFT's defaults hold for both."""
    from peft import LoraConfig

    values = LoraConfig(**job.peft.values)
    return LoralibConfig(
        rank=values.r,
        alpha=values.lora_alpha,
        dropout=values.lora_dropout,
        targets=check_targets(job.peft.values["target_modules"], linear_names(base.model)),
        masks=job.config.engine.masks,
    )


def _label(
    base: LoadedBase, data: TrainingData, values: dict[str, Any]
) -> tuple[Labelled, Labelled]:
    # Ours to do, and SFTTrainer would look for marks in the template that are not needed.
    assistant_only = values.pop("assistant_only_loss", True)
    max_length = values.get("max_length", 1024)
    stops = stop_texts(base.model, base.tokenizer)
    train, held_out = (
        label_rows(
            rows, base.tokenizer, stops, assistant_only=assistant_only, max_length=max_length
        )
        for rows in (data.train, data.validation)
    )
    return train, held_out


def _trainable(model: Any) -> dict[str, "torch.Tensor"]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@contextmanager
def _settings() -> Iterator[None]:
    """Turn what a library says of a setting into one of our errors."""
    try:
        yield
    except Phi3LoraQAError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"a setting needs a package that is not installed: {escape(str(error), 300)}"
        ) from error
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"the trainer refuses these settings: {escape(str(error), 300)}; "
            "mend [training], [peft] or [model]"
        ) from error
