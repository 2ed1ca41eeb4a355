"""Bundled files are found, and the cache folder follows the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.paths import bundled, cache_folder


def test_a_bundled_file_is_found() -> None:
    assert (bundled("tiny/base") / "config.json").is_file()


def test_a_missing_bundled_file_is_named_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"bundled tiny/none is missing.*reinstall phi3-lora-qa$"):
        bundled("tiny/none")


def test_the_cache_is_the_users_unless_the_environment_sets_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PHI3_LORA_QA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == tmp_path / "user" / "phi3-lora-qa"
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", "~nobody-here/cache")
    with pytest.raises(
        InputError, match=r"unknown user: ~nobody-here/cache; set it to a folder of your own$"
    ):
        cache_folder()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "/x", "HF_HOME": "~/hf"},
        {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "$HOME/old"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/$NAME/new", "NAME": "n"},
    ],
)
def test_the_hubs_cache_is_where_its_client_looks(variables: dict[str, str]) -> None:
    names = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    code = (
        "from huggingface_hub.constants import HF_HUB_CACHE\n"
        "from phi3_lora_qa.models.paths import hub_cache\n"
        "print(HF_HUB_CACHE, hub_cache(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    theirs, ours = done.stdout.splitlines()
    assert ours == theirs
