"""Silence other libraries: no log lines, progress bars or warnings."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

NOISY = ("transformers", "peft", "trl", "datasets", "huggingface_hub", "accelerate")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, peft, trl, datasets and huggingface_hub, and Python's warnings.

    All settings are restored afterwards. Inside, no warning can become an error, whatever filters
    are set outside, so heavy imports belong inside too.
    """
    with warnings.catch_warnings(), ExitStack() as restore:
        warnings.simplefilter("ignore")
        # Before the levels are read: transformers sets its own level on first import.
        import transformers  # noqa: F401

        for name in NOISY:
            logger = logging.getLogger(name)
            restore.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        _hide_bars(restore)
        yield


def _hide_bars(restore: ExitStack) -> None:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    hub_had_bars = not are_progress_bars_disabled()
    if transformers_logging.is_progress_bar_enabled():
        # transformers switches the hub's bars on and off together with its own.
        restore.callback(disable_progress_bars if not hub_had_bars else enable_progress_bars)
        restore.callback(transformers_logging.enable_progress_bar)
        transformers_logging.disable_progress_bar()
    elif hub_had_bars:
        restore.callback(enable_progress_bars)
        disable_progress_bars()
    bars = sys.modules.get("datasets.utils")
    if bars is not None and not bars.are_progress_bars_disabled():
        restore.callback(bars.enable_progress_bars)
        bars.disable_progress_bars()
