"""The demo deletes only its own folders, and damages only a copy."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import Verdict

demo: Any = import_module("phi3_lora_qa.cli.demo")  # the package has the command of this name


def test_a_folder_that_the_demo_did_not_make_is_left(tmp_path: Path) -> None:
    mine = tmp_path / "tiny"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"the demo did not make it; .* --output"):
        demo.demo_command("tiny", tmp_path)
    assert (mine / "notes.txt").read_text() == "mine"


def test_the_damaged_copy_has_one_nan_and_the_adapter_none(tmp_path: Path) -> None:
    good, damaged = tmp_path / "good", tmp_path / "damaged"
    shutil.copytree(bundled("tiny") / "adapter", good)
    demo._damage(good, damaged)
    for folder, count in ((good, 0), (damaged, 1)):
        tensors = load_file(folder / "adapter_model.safetensors").values()
        assert sum(int(np.isnan(tensor).sum()) for tensor in tensors) == count


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ((Verdict.PASS, Verdict.FAIL), 0),
        ((Verdict.PASS, Verdict.PASS), 1),
        ((Verdict.INCONCLUSIVE, Verdict.FAIL), 1),
    ],
)
def test_the_demo_succeeds_only_if_the_adapter_passes_and_the_damaged_copy_fails(
    verdicts: tuple[Verdict, Verdict], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(verdicts)
    monkeypatch.setattr(demo, "_run", lambda *_: 0)
    monkeypatch.setattr(demo, "_damage", lambda *_: None)
    monkeypatch.setattr(demo, "_gate", lambda *_: left.pop(0))
    assert demo.demo_command("tiny", tmp_path) == status
    assert (tmp_path / "tiny" / demo.MARK).is_file()


def test_a_failed_training_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_run", lambda *_: 3)
    assert demo.demo_command("tiny", tmp_path) == 3
