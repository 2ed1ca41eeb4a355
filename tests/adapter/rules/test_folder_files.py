"""Tests of the rules about the files in the folder."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from tests.adapter.adapters import plain, report_on
from tests.adapter.healthy import HEALTHY
from tests.adapter.shards import save_shards


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ('{"log_history": [{"loss": 1, "grad_norm": 2}, {"loss": 1, "grad_norm": NaN}]}', ""),
        (
            '{"log_history": [{"loss": 1, "grad_norm": NaN}, {"loss": 1, "grad_norm": NaN}]}',
            "grad_norm is never finite in 2 logged steps (nan at the last one)",
        ),
        ('{"log_history": [{"loss": 0.0, "reward": 0.5, "kl": 0.1, "step": 1}]}', ""),
        ('{"log_history": [{"loss": 0.0, "completions/mean_length": 9.5}]}', ""),
        (
            '{"log_history": [{"loss": 0.0, "rewards/chosen": 9.5}]}',
            "loss is 0 at the last logged step",
        ),
        ('{"log_history": [{"loss": NaN, "reward": 0.5, "step": 1}]}', "loss is nan at step 1"),
        ('{"log_history": [{"loss": 1.0, "step": 1}, {"loss": NaN, "step": 2}]}', "nan at step 2"),
        ('{"log_history": [{"eval_loss": -Infinity}]}', "eval_loss is -inf"),
        ('{"log_history": [{"loss": 1.0}, {"loss": 0.0}]}', "loss is 0 at the last logged step"),
        ('{"log_history": [{"loss": 0}]}', "loss is 0 at the last logged step"),
        ('{"log_history": [', "not valid JSON"),
        ('{"a": 1, "a": 1}', "is duplicated"),
        ('{"log_history": [{"loss": 0.0}, {"loss": 1.0, "grad_norm": NaN}]}', ""),
        ('{"log_history": [{"loss": 1' + "0" * 400 + "}]}", ""),
        ('{"log_history": 5}', ""),
        ("{}", ""),
    ],
)
def test_the_training_log_is_checked(state: str, words: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.files["trainer_state.json"] = state.encode()
    folder = AdapterFolder.open(adapter.save(tmp_path / "a"))
    for place in (folder, folder.snapshot(tmp_path / "copy")):
        messages = [f.message for f in lint(place).findings]
        assert [words in message for message in messages] == ([True] if words else [])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(
            (f"x{end}", "files-code")
            for end in (".exe", ".BAT", ".ps1", ".js", ".jar", ".pyd", ".py.gz")
        ),
        *(
            (f"x{end}", "files-pickle-beside")
            for end in (".npy", ".npz", ".dill", ".pth.tar", ".pkl.gz", ".nemo", ".keras", ".PT")
        ),
        *((name, "files-other-model") for name in ("config.json", "x.gguf")),
        *((name, "") for name in ("README.txt", "x.tar.gz", "eval.json", ".gitattributes")),
    ],
)
def test_files_are_recognised_by_their_names(name: str, rule: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.files[name] = b"x"
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings] == ([rule] if rule else [])


def test_a_file_that_is_mostly_a_copy_of_the_base_is_reported(tmp_path: Path) -> None:
    adapter = HEALTHY["embeddings"]()
    assert "files-oversized" in {f.rule for f in report_on(adapter, tmp_path).findings}


def test_the_fix_for_a_git_lfs_pointer_is_the_readers_own(tmp_path: Path) -> None:
    folder = plain().save(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/x")
    found = lint(AdapterFolder.open(folder)).findings[0]
    assert (found.rule, found.message) == ("files-wrong-kind", "it is a git-lfs pointer")
    assert found.fix.startswith("run `git lfs pull` in the clone that it comes from")
    assert "git lfs pull" not in found.message


@pytest.mark.parametrize(
    ("missing", "suffix", "message", "fix"),
    [
        (0, ".safetensors", "split into 3 files, which peft does not load", "join the files: "),
        (1, ".safetensors", "split into 3 files, of which 1 are not in", "copy the missing files"),
        (0, ".bin", "split into 3 files, which peft does not load", "save the adapter again with"),
    ],
)
def test_shards_are_one_finding_with_the_way_to_one_file(
    missing: int, suffix: str, message: str, fix: str, tmp_path: Path
) -> None:
    names = save_shards(plain(), tmp_path)
    for name in names[:missing]:
        (tmp_path / name).unlink()
    for name in names[missing:]:
        (tmp_path / name).rename((tmp_path / name).with_suffix(suffix))
    (found,) = lint(AdapterFolder.open(tmp_path)).findings
    assert found.rule == "files-weights-sharded"
    assert message in found.message
    assert found.fix.startswith(fix)


def test_shards_next_to_complete_weights_are_further_weights(tmp_path: Path) -> None:
    save_shards(plain(), tmp_path)
    plain().save(tmp_path)
    rules = {finding.rule for finding in lint(AdapterFolder.open(tmp_path)).findings}
    assert "files-further-weights" in rules
    assert "files-weights-sharded" not in rules
