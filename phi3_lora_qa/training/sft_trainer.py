"""TRL's trainer without telemetry and hub access. Imports torch: import it inside functions."""

import copy
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from phi3_lora_qa.conversion.peft_adapter import write_adapter
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.loralib_interop import (
    LoralibConfig,
    adapt,
    load_lora_state,
    read_checkpoint,
    save_model,
    to_peft,
)
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.training.training_progress import LogEntry, TrainingCallbacks

LORALIB_WEIGHTS = "loralib.safetensors"


class LocalTrainer(SFTTrainer):
    """SFTTrainer without telemetry, whose checkpoints contain only the adapter."""

    base_id = ""

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *arguments: object, **named: object) -> None:
        """Write no card into checkpoints; the finished adapter gets our own."""

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's format."""
        # Without the base's embeddings, since an adapter must not change its base. PEFT's default
        # would query the hub for the size of the base's vocabulary.
        cast("PeftModel", self.model).save_pretrained(str(folder), save_embedding_layers=False)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            self.save_adapter(folder)


class LoralibTrainer(LocalTrainer):
    """LocalTrainer for loralib's layers; saves loralib's checkpoint and the converted adapter."""

    def save_adapter(self, folder: Path) -> None:
        """Write loralib's factors with their description, and the same adapter in PEFT's format."""
        model = cast("nn.Module", self.model)
        save_model(folder / LORALIB_WEIGHTS, model)
        checkpoint = read_checkpoint(folder / LORALIB_WEIGHTS)
        names = [name for name, _ in model.named_modules()]
        write_adapter(folder, to_peft(checkpoint, self.base_id), names)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = read_checkpoint(Path(resume_from_checkpoint) / LORALIB_WEIGHTS).tensors
        load_lora_state(cast("nn.Module", model or self.model), state)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


class Watcher(TrainerCallback):
    """Turns the trainer's logs into LogEntries and stops at the first loss that is not finite."""

    def __init__(self, callbacks: TrainingCallbacks) -> None:
        self.entries: list[LogEntry] = []
        self._callbacks = callbacks

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Report the number of steps done."""
        self._callbacks.on_progress("training", state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Record a loss; the summary at the end of training has none."""
        values = logs or {}
        for kind, key in (("train", "loss"), ("eval", "eval_loss")):
            if key in values:
                self._record(kind, values, key, state)

    def _record(self, kind: str, values: Mapping[str, float], key: str, state: Any) -> None:
        entry = LogEntry(
            step=state.global_step,
            steps=max(state.max_steps, 0),
            kind=kind,
            loss=float(values[key]),
            learning_rate=float(values.get("learning_rate", 0.0)),
        )
        if not isfinite(entry.loss):
            raise InputError(
                f"the {kind} loss is {entry.loss} at step {entry.step}, so training has failed and "
                'no adapter is saved; lower training.learning_rate or set model.dtype = "float32"'
            )
        self.entries.append(entry)
        self._callbacks.on_log(entry)


def build_trainer(  # noqa: PLR0913 - the parts of a trainer
    *,
    base: LoadedBase,
    training: Mapping[str, Any],
    adapter: LoraConfig | LoralibConfig,
    train_rows: Dataset,
    validation_rows: Dataset,
    watcher: Watcher,
) -> LocalTrainer:
    """Return a trainer for labelled rows; this adds the adapter to the base.

    The trainer gets a copy of the tokenizer, since it may set a pad token, and the adapter must be
    saved with the base's own tokenizer.
    """
    arguments = SFTConfig(**training)
    kind: type[LocalTrainer] = LocalTrainer
    peft_config: LoraConfig | None = None
    _require_hooks()
    # A is initialised before the trainer sets the seed: below for loralib, by TRL 1.7 for PEFT.
    set_seed(arguments.seed)
    if isinstance(adapter, LoralibConfig):
        adapt(base.model, adapter)
        if arguments.gradient_checkpointing:
            base.model.enable_input_require_grads()
        kind = LoralibTrainer
    else:
        peft_config = adapter
    trainer = kind(
        model=base.model,
        args=arguments,
        peft_config=peft_config,
        processing_class=copy.deepcopy(base.tokenizer),
        train_dataset=train_rows,
        eval_dataset=validation_rows,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watcher)
    trainer.base_id = base.ref.id
    if peft_config is not None:
        _make_config_reproducible(trainer, base.ref.id)
    return trainer


def _require_hooks() -> None:
    """Check that SFTTrainer still has the private methods that are overridden above."""
    for name in ("_send_telemetry", "_save", "_load_from_checkpoint", "_load_best_model"):
        part_of("trl", "trl.trainer.sft_trainer", f"SFTTrainer.{name}")


def _make_config_reproducible(trainer: LocalTrainer, base_id: str) -> None:
    """Make PEFT's config the same on every machine and in every run.

    PEFT writes the path that the base was loaded from, which means nothing on another machine, and
    a set of target modules, whose order changes from run to run.
    """
    config = cast("LoraConfig", cast("PeftModel", trainer.model).peft_config["default"])
    config.base_model_name_or_path = base_id
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
