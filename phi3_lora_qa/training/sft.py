"""TRL's trainer, made quiet and local; it loads torch at import, so import it inside functions."""

import copy
from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.training.progress import LogEntry, Progress


class LocalTrainer(SFTTrainer):
    """SFTTrainer without its telemetry, and with checkpoints that need no look at a hub."""

    def _send_telemetry(self) -> None:
        """Send nothing: training is nobody else's business."""

    def create_model_card(self, *arguments: object, **named: object) -> None:
        """Write no card into checkpoints; the finished adapter gets one of ours."""

    @property
    def peft_model(self) -> PeftModel:
        """The base with its adapter, as what it is."""
        return cast("PeftModel", self.model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # PEFT's default asks the hub whether the vocabulary has grown; ours never does.
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.peft_model.save_pretrained(str(folder), save_embedding_layers=False)


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
    peft: Mapping[str, Any],
    train_rows: Dataset,
    validation_rows: Dataset,
    watcher: Watcher,
) -> LocalTrainer:
    """Build the trainer around labelled rows; the base gets its adapter here.

    The tokenizer is given as a copy: the trainer may give it a pad token, and what lies beside the
    adapter in the end must be the base's own.
    """
    trainer = LocalTrainer(
        model=base.model,
        args=SFTConfig(**training),
        peft_config=LoraConfig(**peft),
        processing_class=copy.deepcopy(base.tokenizer),
        train_dataset=train_rows,
        eval_dataset=validation_rows,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watcher)
    config = cast("LoraConfig", trainer.peft_model.peft_config["default"])
    # PEFT writes the path that was loaded from; the id is what another machine can resolve. It also
    # writes a set, in an order that changes from run to run.
    config.base_model_name_or_path = base.ref.id
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    return trainer
