"""The command ``base`` lists, fetches and shows bases."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from phi3_lora_qa.cli.base import app
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models import smollm2
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.paths import bundled
from phi3_lora_qa.models.registry import base_fingerprint, known_bases, resolve_base
from tests.adapter.base_variants import GENERATION, POINTER, copy_base, edit_json


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "built"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def refusal(*arguments: str) -> str:
    """Return the line that the main program prints before it exits with status 2."""
    result = run(*arguments)
    assert isinstance(result.exception, BaseModelError)
    message = str(result.exception)
    assert message.isprintable()
    return message


def test_list_shows_every_base_with_its_folder_or_the_command_that_fetches_it() -> None:
    result = run("list")
    assert result.exit_code == 0
    lines = dict(zip([k.name for k in known_bases()], result.stdout.splitlines(), strict=True))
    assert all(line.startswith(name) for name, line in lines.items())
    assert lines["tiny"].endswith(str(bundled("tiny/base")))
    assert lines["smollm2"].endswith("not on this machine; run: phi3-lora-qa base fetch smollm2")
    assert "microsoft/Phi-3-mini-4k-instruct" in lines["phi3-mini-4k"]
    assert "MIT" in lines["phi3-mini-4k"]
    assert all(f"{known.name} " in lines[known.name] for known in known_bases())


def test_info_shows_what_a_base_contains() -> None:
    result = run("info", "tiny")
    assert result.exit_code == 0
    shown = dict(
        line.split(maxsplit=1) for line in result.stdout.splitlines() if "size" not in line
    )
    ref = resolve_base("tiny")
    model = load_base(ref).model
    config = json.loads((bundled("tiny/base") / "config.json").read_text())
    assert shown["layers"] == str(config["num_hidden_layers"])
    assert shown["vocabulary"] == str(config["vocab_size"])
    assert shown["folder"] == str(ref.folder)
    assert shown["license"] == "Apache-2.0"
    assert shown["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert shown["fingerprint"] == base_fingerprint(ref)


def test_info_shows_the_published_chat_format_of_a_known_model(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--microsoft--Phi-4-mini-instruct"
    shutil.copytree(bundled("tiny/base"), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    shown = run("info", "phi4-mini").stdout
    assert "<|user|>…<|end|><|assistant|>…<|end|>, stop tokens 200020, 199999" in shown
    assert "stop tokens" not in run("info", "tiny").stdout


def test_info_of_a_missing_base_names_the_command_that_fetches_it() -> None:
    for name in ("smollm2", "phi3-mini-4k"):
        assert refusal("info", name).endswith(f"run: phi3-lora-qa base fetch {name}")


def test_info_of_a_folder_that_is_not_a_base_is_refused_with_the_fix(tmp_path: Path) -> None:
    assert refusal("info", str(tmp_path)).endswith("pass the folder of a Phi-3 model")


def test_info_of_truncated_weights_is_refused(tmp_path: Path) -> None:
    for file in bundled("tiny/base").iterdir():
        (tmp_path / file.name).write_bytes(
            file.read_bytes()[: 5000 if "model." in file.name else None]
        )
    assert refusal("info", str(tmp_path)).endswith(
        "download the base again, because the file is damaged or incomplete"
    )


def test_fetch_of_a_bundled_base_does_nothing() -> None:
    result = run("fetch", "tiny")
    assert (result.exit_code, result.stdout) == (0, f"{bundled('tiny/base')}\n")


def test_fetch_of_an_unknown_base_names_the_known_ones() -> None:
    message = refusal("fetch", "gpt\x1b[31m5")
    assert "; use one of tiny, smollm2, phi3-mini-4k" in message


def test_fetch_without_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert "cannot download microsoft/Phi-3-mini-4k" in refusal("fetch", "phi3-mini-4k")
    assert f"pip cannot download {smollm2.REQUIREMENT}" in refusal("fetch", "smollm2")


def test_info_shows_the_findings_about_a_base(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, repetition_penalty=1.2)
    result = run("info", str(base))
    assert result.exit_code == 0
    assert "warning basemodel-penalties  generation_config.json: repetition_penalty" in (
        result.stdout
    )
    assert "findings       none" in run("info", "tiny").stdout


def test_info_of_a_base_that_cannot_be_used_ends_with_the_reason(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=741)
    assert "cannot be used (basemodel-stop-tokens)" in refusal("info", str(base))
    assert "error   basemodel-stop-tokens" in run("info", str(base)).stdout
    (base / "tokenizer.json").write_bytes(POINTER)
    assert (
        "(basemodel-files): tokenizer.json: the file is a git-lfs pointer; run `git lfs pull`"
        in (refusal("info", str(base)))
    )
