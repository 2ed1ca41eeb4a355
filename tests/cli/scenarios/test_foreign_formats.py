"""The commands in the fixes for other formats work, and what they write is accepted."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa import lint
from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.lint_report import LintReport
from tests.cli.foreign_adapters import kohya, loralib, mlx, torchtune


def error_of(report: LintReport) -> tuple[str, str]:
    (found,) = [f for f in report.findings if f.severity is Severity.ERROR]
    return found.rule, found.fix


@pytest.mark.parametrize("make", [mlx, kohya, torchtune, loralib])
def test_the_command_of_the_fix_converts_the_adapter(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    given = make(source)
    rule, fix = error_of(lint(source))
    assert rule == "files-format"
    words = {"FOLDER": given, "FILE": given, "BASE": "tiny", "DIR": tmp_path / "out", "ALPHA": 8}
    command = fix[fix.index("phi3-lora-qa ") :]
    arguments = [str(words.get(word, word)) for word in shlex.split(command)[1:]]
    command_line = [sys.executable, "-m", "phi3_lora_qa", *arguments]
    done = subprocess.run(command_line, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = lint(tmp_path / "out", base="tiny")
    assert report.accepted, report.findings


def test_the_command_for_a_complete_state_keeps_the_factors(tmp_path: Path) -> None:
    from tests.adapter.adapters import P, plain
    from tests.adapter.tiny_base import base_tensors

    adapter = plain()
    expected = set(adapter.tensors)
    adapter.rename(lambda name: name.replace(".weight", ".default.weight"))
    for name, tensor in base_tensors().items():
        is_adapted = "_proj" in name
        own = name.replace(".weight", ".base_layer.weight") if is_adapted else name
        adapter.tensors[P + own] = tensor
    folder = adapter.save(tmp_path)
    rule, fix = error_of(lint(folder))
    assert rule == "files-format"
    command = shlex.split(fix[fix.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=folder)
    report = lint(folder)
    assert report.accepted
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        assert set(file.keys()) == expected


def test_peft_approximates_another_type_as_the_fix_says(tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    from phi3_lora_qa.models.paths import bundled

    model = AutoModelForCausalLM.from_pretrained(bundled("tiny/base"))
    config = peft.LoHaConfig(r=2, target_modules=["o_proj"], init_weights=False)
    peft.get_peft_model(model, config).save_pretrained(str(tmp_path / "loha"))
    rule, fix = error_of(lint(tmp_path / "loha"))
    assert rule == "files-format"
    assert "peft.save_as_lora" in fix
    base = AutoModelForCausalLM.from_pretrained(bundled("tiny/base"))
    tuned = peft.PeftModel.from_pretrained(base, tmp_path / "loha")
    peft.save_as_lora(tmp_path / "lora", tuned, rank=4)
    assert lint(tmp_path / "lora").accepted
