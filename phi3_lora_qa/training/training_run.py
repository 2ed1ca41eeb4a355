"""One training run in memory: load the base, build TRL's trainer, evaluate, train, evaluate."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from phi3_lora_qa.training.job import Job, TrainingOutcome
from phi3_lora_qa.training.labels import LabelledRows, label_rows, stop_texts
from phi3_lora_qa.training.quantization import load_quantized, quantization_config
from phi3_lora_qa.training.target_check import check_targets, linear_names
from phi3_lora_qa.training.training_output import TrainingFolders
from phi3_lora_qa.training.training_progress import TrainingCallbacks

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from phi3_lora_qa.training.sft_trainer import LocalTrainer, Watcher

_SET_WHEN_SAVED = {"inference_mode", "auto_mapping", "peft_version"}


def run_training(
    job: Job, data: TrainingData, folders: TrainingFolders, callbacks: TrainingCallbacks
) -> TrainingOutcome:
    """Train in memory; only checkpoints are written.

    Raises:
        InputError: The libraries reject a setting, a loss is not finite, or training changed
            nothing.
    """
    from peft import LoraConfig

    from phi3_lora_qa.training.sft_trainer import Watcher, build_trainer

    callbacks.on_progress("loading the base", 0, 0)
    dtype = resolve_dtype(job.config.model.dtype)
    base, fingerprint = _load(job, dtype)
    values = {**training_defaults(dtype, folders.checkpoints), **job.training.values}
    train, held_out = _label(base, data, values)
    watcher = Watcher(callbacks)
    with _library_errors():
        trainer = build_trainer(
            base=base,
            training=values,
            adapter=_loralib_config(job, base) if job.is_loralib else LoraConfig(**job.peft.values),
            train_rows=train.rows,
            validation_rows=held_out.rows,
            watcher=watcher,
        )
    if folders.resume_from is not None and not job.is_loralib:
        tuned: Any = trainer.model
        require_same_adapter(folders.resume_from, tuned.peft_config["default"])
    start = _trainable(trainer.model)
    with fitting_threads(trainer.model):
        callbacks.on_progress("evaluating the base", 0, 0)
        before = trainer.evaluate()["eval_loss"]
        callbacks.on_progress("training", 0, 0)
        resume = None if folders.resume_from is None else str(folders.resume_from)
        output = trainer.train(resume_from_checkpoint=resume)
        callbacks.on_progress("evaluating the adapter", 0, 0)
        after = _final_loss(trainer, watcher)
    require_learned(start, _trainable(trainer.model))
    return TrainingOutcome(
        model=trainer.model,
        save=trainer.save_adapter,
        tokenizer=base.tokenizer,
        base_fingerprint=fingerprint,
        dtype=dtype,
        seed=trainer.args.seed,
        loss_before=before,
        loss_after=after,
        train_loss=output.training_loss,
        steps=output.global_step,
        trainable_parameters=sum(tensor.numel() for tensor in start.values()),
        truncated=train.truncated + held_out.truncated,
        log=tuple(watcher.entries),
    )


def resolve_dtype(dtype: str) -> str:
    """Return the base's dtype; "auto" is bfloat16 on a GPU that supports it, else float32."""
    import torch

    if dtype != "auto":
        return dtype
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bfloat16" if gpu else "float32"


def training_defaults(dtype: str, checkpoints: Path) -> dict[str, Any]:
    """Return the defaults that differ from SFTConfig's own, which are for a GPU.

    On a CPU mixed precision and gradient checkpointing only cost time. Loss filtering is off,
    since it would replace a NaN loss with the last finite one.
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
    """Raise unless the adapter is finite and training has changed its delta.

    LoRA starts with one factor of every pair at zero. While that factor stays zero, so does the
    delta, even if weight decay changes the other one. Which factor it is depends on the variant.

    Args:
        start: The trainable tensors before training, by name.
        end: The same after training.

    Raises:
        InputError: A value is not finite, or no factor that was zero has changed.
    """
    import torch

    for name, tensor in end.items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"after training {name} contains values that are not finite, so no adapter is "
                "saved; lower training.learning_rate"
            )
    zeros = [name for name, tensor in start.items() if not tensor.any()]
    if all(torch.equal(start[name], end[name]) for name in zeros or start):
        raise InputError(
            "training has not changed the adapter, so none is saved; "
            "raise training.learning_rate or train for more steps"
        )


def require_same_adapter(checkpoint: Path, config: "PeftConfig") -> None:
    """Raise if the checkpoint belongs to a differently configured adapter.

    Resuming with another rank would end in a library's error, but with another alpha it would
    silently train an adapter that matches neither config.

    Raises:
        InputError: Names the setting that differs.
    """
    try:
        saved = json.loads(read_text(checkpoint / CONFIG, 1 << 20))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {CONFIG} of the checkpoint {checkpoint}: {error}; "
            "choose another checkpoint"
        ) from error
    current = json.loads(json.dumps(config.to_dict(), default=sorted))
    for name in sorted(current.keys() - _SET_WHEN_SAVED):
        before, after = (
            sorted(v) if isinstance(v, list) else v for v in (saved.get(name), current[name])
        )
        if before != after:
            raise InputError(
                f"the checkpoint {checkpoint} was trained with {name} = "
                f"{escape(repr(before), 100)}, not {escape(repr(after), 100)}; restore that "
                "setting, or remove training.resume_from_checkpoint"
            )


def _final_loss(trainer: "LocalTrainer", watcher: "Watcher") -> float:
    """Return the validation loss of the saved adapter; the last step may have just measured it."""
    last = watcher.entries[-1]
    is_current = last.kind == "eval" and last.step == trainer.state.global_step
    if is_current and not trainer.args.load_best_model_at_end:
        return last.loss
    return float(trainer.evaluate()["eval_loss"])


def _load(job: Job, dtype: str) -> tuple[LoadedBase, str]:
    """Load the base, compute its fingerprint before anything changes it, and check the targets."""
    plain = load_base(job.base, dtype)
    fingerprint = base_fingerprint(job.base)
    check_targets(job.peft.values["target_modules"], linear_names(plain.model))
    if job.quantization.values:
        tokenizer = plain.tokenizer
        del plain  # only one copy of the weights at a time
        config = quantization_config(job.quantization.values)
        model = load_quantized(job.base, config, dtype)
        return LoadedBase(model=model, tokenizer=tokenizer, ref=job.base), fingerprint
    if job.config.model.attn_implementation:
        with _library_errors():
            plain.model.set_attn_implementation(job.config.model.attn_implementation)
    return plain, fingerprint


def _loralib_config(job: Job, base: LoadedBase) -> LoralibConfig:
    """Return loralib's config for the [peft] table; PEFT's defaults apply to both engines."""
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
) -> tuple[LabelledRows, LabelledRows]:
    # Removed from the settings: SFTTrainer would look for generation marks in the template.
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
def _library_errors() -> Iterator[None]:
    """Turn a library's error about a setting into one of our own."""
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
            f"the trainer rejects these settings: {escape(str(error), 300)}; "
            "fix [training], [peft] or [model]"
        ) from error
