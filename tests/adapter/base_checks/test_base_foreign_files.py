"""Tests of finding files of a base that are not what their names say."""

import gzip
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_checks.base_foreign_files import foreign_files, require_own_files
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.errors import BaseModelError
from tests.adapter.base_variants import POINTER, TINY, copy_base


def test_every_file_of_a_healthy_base_is_its_own() -> None:
    assert not list(foreign_files(TINY))


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
     "chat_template.jinja", "model.safetensors"],
)  # fmt: skip
def test_a_pointer_in_any_file_is_named_with_the_command_that_helps(
    name: str, tmp_path: Path
) -> None:
    base = copy_base(tmp_path / "base")
    (base / name).write_bytes(POINTER)
    with pytest.raises(BaseModelError, match=rf"{name} is a git-lfs pointer; run `git lfs pull`"):
        require_own_files(base)
    with pytest.raises(BaseModelError, match=r"basemodel-files"):
        BaseFiles.open(base)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><head></head></html>", "a web page"),
        (gzip.compress(b"weights", mtime=0), "a gzip archive"),
        (b"PK\x03\x04 an archive", "a zip archive"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b'{"error": "Repository not found"}', "a message of a server"),
        (b"", "empty"),
    ],
)
def test_what_is_in_the_place_of_weights_is_named(
    content: bytes, what: str, tmp_path: Path
) -> None:
    base = copy_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(content)
    (found,) = foreign_files(base)
    assert found.fault.startswith(f"model.safetensors is {what}")
    assert "adapter" not in found.fix
    assert "peft" not in found.fix


def test_a_pointer_among_shards_is_found_and_several_are_counted(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    for number in (1, 2):
        (base / f"model-0000{number}-of-00002.safetensors").write_bytes(POINTER)
    with pytest.raises(BaseModelError, match=r"and 1 more such files"):
        require_own_files(base)


def test_files_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    for name in ("README.md", "pytorch_model.bin", "figure.png"):
        (base / name).write_bytes(POINTER)
    assert not list(foreign_files(base))


def test_half_a_download_is_said_to_be_the_bases(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    data = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BaseModelError, match=r"bytes are missing; download the base again"):
        BaseFiles.open(base)
