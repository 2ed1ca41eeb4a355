import shutil
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.conversion.base_name import known_original, public_base_name
from phi3_lora_qa.models.registry import bundled
from tests.conversion.foreign import BASE

MICROSOFT = "microsoft/Phi-3-mini-4k-instruct"


def base_in(folder: Path) -> BaseFiles:
    shutil.copytree(bundled("tiny/base"), folder)
    return BaseFiles.open(folder)


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", MICROSOFT),
        ("unsloth/Phi-3-mini-4k-instruct", MICROSOFT),
        ("unsloth/phi-3.5-mini-instruct-unsloth-bnb-4bit", "microsoft/Phi-3.5-mini-instruct"),
        ("mlx-community/Phi-3-mini-128k-instruct-8bit", "microsoft/Phi-3-mini-128k-instruct"),
        (MICROSOFT, MICROSOFT),
        ("/models/Phi-3-mini-4k-instruct", MICROSOFT),
        ("someone/Phi-3-mini-4k-instruct-medical", ""),
        ("unsloth/Llama-3.2-1B", ""),
        ("tiny", ""),
        ("", ""),
    ],
)
def test_the_known_base_behind_a_copy_is_found(name: str, original: str) -> None:
    assert known_original(name) == original


@pytest.mark.parametrize("identity", ["tiny", MICROSOFT, "someone/phi-3"])
def test_a_public_name_is_kept(identity: str) -> None:
    assert public_base_name(identity, BASE, "unsloth/other") == identity


@pytest.mark.parametrize(
    ("trained_on", "written"),
    [
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", MICROSOFT),
        ("someone/phi-3-medical", "someone/phi-3-medical"),
        ("/home/someone/base", ""),
        ("./base", ""),
        ("C:\\models\\base", ""),
        ("", ""),
    ],
)
def test_a_path_is_never_written(tmp_path: Path, trained_on: str, written: str) -> None:
    base = base_in(tmp_path / "base")
    assert public_base_name(str(base.path), base, trained_on) == written


def test_the_hubs_cache_and_the_bases_config_name_it(tmp_path: Path) -> None:
    cached = tmp_path / "models--someone--phi-3" / "snapshots" / "abc"
    base = base_in(cached)
    assert public_base_name(str(cached), base, MICROSOFT) == "someone/phi-3"
    named = base_in(tmp_path / "base")
    config = named.path / "config.json"
    text = config.read_text(encoding="utf-8").replace("{", '{"_name_or_path": "a/b",', 1)
    config.write_text(text, encoding="utf-8")
    assert public_base_name(str(named.path), BaseFiles.open(named.path)) == "a/b"
