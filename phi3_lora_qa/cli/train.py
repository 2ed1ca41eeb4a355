"""``phi3-lora-qa train``: a config in, an adapter folder out."""

import sys
from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.cli.gate_command import gate_command
from phi3_lora_qa.errors import escape
from phi3_lora_qa.exit_codes import STOPPED
from phi3_lora_qa.extras import require_extra


def train_command(config: Path, set_: Sequence[str]) -> None:
    """Fine-tune as the config describes, and print the adapter's folder.

    Results go to stdout; progress, losses and notes go to stderr.

    Args:
        config: The TOML file.
        set_: ``table.key=value`` overrides.

    Raises:
        InputError: The config, the data or the base cannot be used.
        MissingDependencyError: A setting needs a package that is not installed.
    """
    require_extra("train", "training")
    from phi3_lora_qa.training.train import train_from_config
    from phi3_lora_qa.training.training_config import load_config
    from phi3_lora_qa.training.training_progress import progress_bar

    settings = load_config(config, set_)
    try:
        with progress_bar() as callbacks:
            result = train_from_config(settings, callbacks)
    except KeyboardInterrupt:
        print(
            "phi3-lora-qa: stopped, no adapter was saved; if a checkpoint was written, resume "
            "with --set training.resume_from_checkpoint=true",
            file=sys.stderr,
        )
        raise SystemExit(STOPPED) from None
    for note in result.notes:
        print(f"phi3-lora-qa: note: {escape(note, 2_000)}", file=sys.stderr)
    adapter = escape(str(result.adapter), 1_000)
    print(f"adapter: {adapter}")
    print(
        f"validation loss: {result.loss_before:.4f} before training, {result.loss_after:.4f} after "
        f"{result.steps} steps in {result.seconds:.0f} s; "
        f"{result.trainable_parameters:,} trainable parameters"
    )
    if result.pushed:
        print(f"pushed to {escape(str(result.pushed), 1_000)}")
    print(f"to gate it: {gate_command(result.adapter, result.base, configured=result.base)}")
