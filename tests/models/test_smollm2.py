"""The base smollm2 counts as installed only if it is complete and from the pinned file."""

from pathlib import Path

import pytest

from phi3_lora_qa.models import smollm2, smollm2_build
from tests.models.builders import write_smollm2


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_complete_build_of_the_pinned_file_counts_as_installed(cache: Path) -> None:
    assert smollm2.installed() is None
    assert write_smollm2(cache) == smollm2.installed()
    assert smollm2_build.fetch() == cache / "smollm2"


@pytest.mark.parametrize(
    "changes",
    [{"gguf_sha256": "0" * 64}, {"weights_bytes": 6}, {"a key of another version": 1}],
    ids=["another file", "truncated weights", "another version"],
)
def test_another_build_does_not_count_as_installed(cache: Path, changes: dict[str, object]) -> None:
    write_smollm2(cache, **changes)
    assert smollm2.installed() is None


@pytest.mark.parametrize("text", ["", "[]", "null", "\0"])
def test_a_build_with_a_damaged_provenance_does_not_count_as_installed(
    cache: Path, text: str
) -> None:
    (write_smollm2(cache) / "provenance.json").write_text(text)
    assert smollm2.installed() is None
