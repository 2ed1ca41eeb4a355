"""Other libraries print nothing inside, and all settings are restored outside."""

import logging
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets.utils import are_progress_bars_disabled as datasets_bars_disabled
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging as transformers_logging

from phi3_lora_qa.models.quiet import NOISY, quiet


def state() -> tuple[object, ...]:
    return (
        [logging.getLogger(name).level for name in NOISY],
        transformers_logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
        datasets_bars_disabled(),
        list(warnings.filters),
    )


def test_logs_bars_and_warnings_are_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        for name in NOISY:
            logging.getLogger(name).error("noise")
            logging.getLogger(f"{name}.deep.inside").warning("noise")
        list(transformers_logging.tqdm([1, 2], desc="noise"))
        assert not transformers_logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
        assert datasets_bars_disabled()
        warnings.warn("noise", FutureWarning, stacklevel=1)
    assert capfd.readouterr() == ("", "")


def test_a_warning_is_not_an_error_inside_even_if_it_is_one_outside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet():
            warnings.warn("noise", DeprecationWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("loud", DeprecationWarning, stacklevel=1)


def test_outside_all_settings_are_restored() -> None:
    before = state()
    with quiet(), quiet():
        assert state() != before
    assert state() == before


def test_settings_are_restored_after_an_error() -> None:
    before = state()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert state() == before


def test_bars_that_were_off_stay_off() -> None:
    disable_progress_bars()
    try:
        before = state()
        with quiet():
            pass
        assert state() == before
        assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()


@pytest.mark.slow
def test_loading_a_base_and_an_adapter_prints_nothing_even_if_warnings_are_errors(
    toy: Path, make_adapter: Callable[..., Path]
) -> None:
    code = f"""
        from pathlib import Path
        from phi3_lora_qa.models.attach import attach
        from phi3_lora_qa.models.loading import load_base
        from phi3_lora_qa.models.registry import resolve_base
        base = load_base(resolve_base({str(toy)!r}))
        attach(base.model, Path({str(make_adapter())!r}))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
