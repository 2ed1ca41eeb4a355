"""Tests of the rules about the base that the config names."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from tests.adapter.adapters import plain, report_on
from tests.adapter.tiny_base import write_base

MINI = "microsoft/Phi-3-mini-4k-instruct"


@pytest.mark.parametrize(
    ("named", "given", "rule"),
    [
        (MINI, MINI, ""),
        ("/home/me/base", MINI, ""),
        (f"{MINI}/", MINI, ""),
        ("gpt2", MINI, "config-base-source"),
        (None, MINI, ""),
        ("acme/helpdesk", "", ""),
        (MINI, "/home/me/base", ""),
        (MINI, "tiny", "config-base-name"),
        ("evil/tiny", "tiny", "config-base-source"),
        ("evil/anything", "tiny", "config-base-name"),
        ("vonjack/Phi-3-mini-4k-instruct-LLaMAfied", "", ""),
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", MINI, "config-base-source"),
        ("unsloth/Phi-3-mini-4k-instruct-unsloth-bnb-4bit", MINI, "config-base-source"),
        (MINI, "someone/phi-3-mini-4k-instruct-GPTQ", "config-base-source"),
        ("mistralai/Mistral-7B-v0.1", "", "config-base-source"),
        ("microsoft/Phi-3-mini-128k-instruct", MINI, "config-base-name"),
        ("microsoft/Phi-3.5-mini-instruct", MINI, "config-base-name"),
        ("mistralai/Mistral-7B-v0.1", MINI, "config-base-name"),
    ],
)
def test_a_base_other_than_the_one_in_the_config_is_reported(
    named: str | None, given: str, rule: str, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = named
    base = BaseFiles.open(write_base(tmp_path / "base"), id=given)
    report = lint(AdapterFolder.open(adapter.save(tmp_path / "a")), base)
    found = {f.rule for f in report.findings} & {"config-base-name", "config-base-source"}
    assert found == ({rule} if rule else set())
    assert report.accepted is (rule != "config-base-name")


@pytest.mark.parametrize(
    ("revision", "rule"),
    [
        ("a" * 40, ""),
        ("main", ""),
        (None, ""),
        ("b" * 40, "config-base-name"),
        ("refs/pr/66", "config-base-name"),
        ("refs/convert/parquet", "config-base-name"),
        (" refs/pr/1", "config-base-name"),
        ("refs/heads/../pr/1", "config-base-name"),
        ("pr/66", "config-base-name"),
        ("refs%2Fpr%2F1", "config-base-name"),
        ("develop", "config-base-source"),
        ("v1.0", "config-base-source"),
        ("refs/heads/x", "config-base-source"),
        ("a" * 7, "config-base-source"),
    ],
)
def test_a_base_in_the_hubs_cache_is_identified_by_id_and_commit(
    revision: str | None, rule: str, tmp_path: Path
) -> None:
    cache = tmp_path / "models--microsoft--Phi-3-mini-4k-instruct" / "snapshots" / ("a" * 40)
    base = write_base(cache)
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": MINI, "revision": revision}
    report = report_on(adapter, tmp_path / "a", base)
    found = {f.rule for f in report.findings} & {"config-base-name", "config-base-source"}
    assert found == ({rule} if rule else set())
    adapter.config["base_model_name_or_path"] = "microsoft/Phi-3-mini-128k-instruct"
    assert "config-base-name" in {f.rule for f in report_on(adapter, tmp_path / "b", base).findings}


def test_a_commit_that_cannot_be_compared_is_reported(tmp_path: Path) -> None:
    """The commit of a pull request looks like any other commit."""
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": MINI, "revision": "c" * 40}
    base = BaseFiles.open(write_base(tmp_path / "base"), id=MINI)
    report = lint(AdapterFolder.open(adapter.save(tmp_path / "a")), base)
    assert [f.rule for f in report.findings] == ["config-base-source"]


def test_an_absolute_path_may_contain_the_name_of_any_entry(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = "/home/me/runs/phi-3"
    adapter.after.append(lambda folder: (folder / "runs").mkdir())
    assert report_on(adapter, tmp_path / "a").accepted


@pytest.mark.parametrize("named", ["base", "./base", "a/base", "x\\base"])
def test_a_base_in_the_adapters_own_folder_is_rejected(named: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = named
    adapter.after.append(lambda folder: (folder / "base").mkdir())
    assert "config-base-name" in {f.rule for f in report_on(adapter, tmp_path / "a").findings}
