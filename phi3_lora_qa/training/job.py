"""What the steps of training hand to each other: the job, its outcome in memory, its result."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.training.library_arguments import Arguments
from phi3_lora_qa.training.training_config import TrainConfig
from phi3_lora_qa.training.training_progress import LogEntry


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training config with everything checked that can be checked without loading a model."""

    config: TrainConfig
    base: BaseRef
    training: Arguments
    peft: Arguments
    quantization: Arguments

    @property
    def is_loralib(self) -> bool:
        """Whether loralib's layers are trained instead of PEFT's."""
        return self.config.engine.name == "loralib"

    @property
    def resume(self) -> str | bool | None:
        """The value of ``resume_from_checkpoint``: True, a checkpoint folder, or None."""
        resume: str | bool | None = self.training.values.get("resume_from_checkpoint")
        return resume


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """A tuned model in memory and what training measured.

    Losses are in nats per learned token. ``save`` writes the adapter to a folder in the format of
    the engine that trained it. ``truncated`` counts the rows that were cut at ``max_length``.
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
    truncated: int
    log: tuple[LogEntry, ...]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What training wrote and measured.

    Attributes:
        adapter: The adapter folder.
        checkpoints: The checkpoint folders, oldest first.
        base: The id of the base model.
        loss_before: Loss of the base on the validation rows, in nats per learned token.
        loss_after: The same for the adapter.
        train_loss: Mean training loss, in nats per learned token.
        steps: Optimizer steps.
        trainable_parameters: Number of parameters that were trained.
        seconds: Wall-clock time.
        log: The logged losses, in order.
        notes: Remarks for the user: settings with older names, rows that were cut or left out.
        pushed: The address of the hub repository; empty if nothing was pushed.

    Example:
        >>> from dataclasses import fields
        >>> "loss_after" in {field.name for field in fields(TrainResult)}
        True
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
