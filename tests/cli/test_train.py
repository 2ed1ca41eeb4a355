import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3_lora_qa.cli import main
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.training.training_output import find_checkpoints

pytestmark = pytest.mark.slow

CONFIG = """
[model]
base = "tiny"
[data]
train = "rows.jsonl"
[training]
max_steps = 4
per_device_train_batch_size = 4
learning_rate = 1e-3
logging_steps = 2
warmup_ratio = 0.5
[peft]
r = 2
[output]
dir = "adapter"
"""
COMMAND = (sys.executable, "-m", "phi3_lora_qa", "train")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    lines = bundled("tiny/train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:20]) + "\n", encoding="utf-8")
    path = tmp_path / "train.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_stdout_has_the_adapter_and_stderr_the_losses(
    config: Path,
) -> None:
    done = subprocess.run(
        [*COMMAND, str(config), "--set", "training.max_steps=2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    adapter = config.parent / "adapter"
    where, losses, gate = done.stdout.splitlines()
    assert where == f"adapter: {adapter}"
    assert "2 steps" in losses
    assert gate == f"to gate it: pytest --phi3-adapter={adapter}"
    assert (adapter / "lora_qa_manifest.json").is_file()
    first, second, third, note = done.stderr.splitlines()
    assert first.startswith("step 0  validation loss ")
    assert second.startswith("step 2/2  train loss ")
    assert third.startswith("step 2/2  validation loss ")
    assert note.startswith("phi3-lora-qa: note: [training] warmup_ratio was read as warmup_steps")


@pytest.fixture
def handled_ctrl_c() -> Iterator[None]:
    """Without a terminal Ctrl-C may be ignored, which a child process inherits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled_ctrl_c")
def test_ctrl_c_leaves_checkpoints_and_no_partial_adapter(config: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(config), "--set=training.max_steps=100000", "--set=training.save_steps=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = config.parent / "adapter-checkpoints"
    deadline = time.monotonic() + 240
    while len(find_checkpoints(checkpoints)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].endswith("--set training.resume_from_checkpoint=true")
    assert find_checkpoints(checkpoints)
    left = {path.name for path in config.parent.iterdir()}
    assert left == {"rows.jsonl", "train.toml", "adapter-checkpoints"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.toml"], "cannot read the training config absent.toml"),
        (["train.toml", "--set", "training.max_stps=3"], "did you mean 'max_steps'?"),
        (["train.toml", "--set", "max_steps=3"], "is invalid; write it as table.key=value"),
        (["train.toml", "--set", "data.train=absent.jsonl"], "cannot read absent.jsonl"),
        (["train.toml", "--set", "model.base=phi9"], "neither a known name nor an existing folder"),
        (["train.toml", "--set", 'peft.target_modules=["q_proj"]'], 'use target_modules = ["qkv_'),
        (["train.toml", "--set", "engine.name=lorax"], "engine.name is 'lorax'"),
        (["train.toml", "--set", "output.dir=rows.jsonl"], "is a file; choose a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    config: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config.parent)
    monkeypatch.setattr(sys, "argv", ["phi3-lora-qa", "train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("phi3-lora-qa: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert not (config.parent / "adapter").exists()
