import pytest

from phi3_lora_qa.training.training_progress import (
    LogEntry,
    TrainingCallbacks,
    log_line,
    progress_bar,
)

ENTRY = LogEntry(step=2, steps=6, kind="train", loss=1.25, learning_rate=3e-4)


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (ENTRY, "step 2/6  train loss 1.2500  learning rate 3.00e-04"),
        (LogEntry(step=0, steps=0, kind="eval", loss=2.0), "step 0  validation loss 2.0000"),
    ],
)
def test_a_log_line_leaves_out_what_is_unknown(entry: LogEntry, line: str) -> None:
    assert log_line(entry) == line


def test_without_a_terminal_only_the_losses_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with progress_bar() as callbacks:
        callbacks.on_progress("loading the base", 0, 0)
        callbacks.on_progress("training", 1, 6)
        callbacks.on_log(ENTRY)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == log_line(ENTRY) + "\n"


def test_the_default_callbacks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = TrainingCallbacks()
    callbacks.on_progress("training", 1, 6)
    callbacks.on_log(ENTRY)
    assert capsys.readouterr() == ("", "")
