"""A base in the hub's cache is found without a network; any failure is one line with the fix."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.base_download import download_base


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_base_in_the_cache_is_not_downloaded_again(hub_cache: Path) -> None:
    repository = hub_cache / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    assert download_base("owner/name") == snapshot


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", ["owner/name", "no id at all", "../x"])
def test_a_failure_is_one_line_that_names_the_base(name: str) -> None:
    with pytest.raises(BaseModelError, match=r"^cannot download .*pass its folder$") as caught:
        download_base(name)
    assert name in str(caught.value)
    assert str(caught.value).isprintable()
