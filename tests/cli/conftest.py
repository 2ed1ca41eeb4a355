import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.cli import main


@pytest.fixture
def convert(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs ``phi3-lora-qa convert``; it returns exit status and output."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["phi3-lora-qa", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        code = caught.value.code
        assert isinstance(code, int)
        return code, out, err

    return command
