"""TRL's trainer, made quiet and local; it loads torch at import, so import it inside functions."""

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
from phi3_lora_qa.training.training_progress import LogEntry, Progress

LORALIB_WEIGHTS = "loralib.safetensors"


class LocalTrainer(SFTTrainer):
    """SFTTrainer without its telemetry, and with checkpoints that hold the adapter alone."""

    base_id = ""

    def _send_telemetry(self) -> None:
        """Send nothing: training is nobody else's business."""

    def create_model_card(self, *arguments: object, **named: object) -> None:
        """Write no card into checkpoints; the finished adapter gets one of ours."""

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter, as PEFT does."""
        # Never with the base's embeddings: an adapter must not be able to change its base. PEFT's
        # default would ask the hub whether the vocabulary has grown.
        cast("PeftModel", self.model).save_pretrained(str(folder), save_embedding_layers=False)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            self.save_adapter(folder)


class LoralibTrainer(LocalTrainer):
    """The same over loralib's layers: its checkpoint, and the PEFT adapter that it converts to."""

    def save_adapter(self, folder: Path) -> None:
        """Write loralib's factors with their description, and what PEFT would have written."""
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
    """Turns the trainer's logs into LogEntries, and stops at the first loss that is no number."""

    def __init__(self, progress: Progress) -> None:
        self.entries: list[LogEntry] = []
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Tell how far training is."""
        self._progress.step(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Record a loss; the summary at the end of training carries none."""
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
        self._progress.entry(entry)


def build_trainer(  # noqa: PLR0913 - what a trainer is built from
    *,
    base: LoadedBase,
    training: Mapping[str, Any],
    adapter: LoraConfig | LoralibConfig,
    train_rows: Dataset,
    validation_rows: Dataset,
    watcher: Watcher,
) -> LocalTrainer:
    """Build the trainer around labelled rows; the base gets its adapter here.

    The tokenizer is given as a copy: the trainer may give it a pad token, and what lies beside the
    adapter in the end must be the base's own.
    """
    arguments = SFTConfig(**training)
    kind: type[LocalTrainer] = LocalTrainer
    peft_config: LoraConfig | None = None
    _require_hooks()
    # A is drawn before the trainer sets the seed: below for loralib, and by TRL 1.7 for PEFT.
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
        _settle(trainer, base.ref.id)
    return trainer


def _require_hooks() -> None:
    """What is overridden above must be what the trainer calls."""
    for name in ("_send_telemetry", "_save", "_load_from_checkpoint", "_load_best_model"):
        part_of("trl", "trl.trainer.sft_trainer", f"SFTTrainer.{name}")


def _settle(trainer: LocalTrainer, base_id: str) -> None:
    """Let PEFT's config say the same on every machine.

    PEFT writes the path that was loaded from; the id is what another machine can resolve. It also
    writes a set, in an order that changes from run to run.
    """
    config = cast("LoraConfig", cast("PeftModel", trainer.model).peft_config["default"])
    config.base_model_name_or_path = base_id
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
