"""The default callback accepts what every caller reports, and prints nothing."""

import pytest

from phi3_lora_qa.progress import Progress, silent


def test_silent_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = silent
    progress("scoring", 1, 2)
    assert capsys.readouterr() == ("", "")
