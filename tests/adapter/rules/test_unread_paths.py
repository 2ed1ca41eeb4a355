"""Paths in fields that nothing reads are one finding; the fields that are read are not in it."""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.lint import LintReport
from tests.adapter.adapters import plain, report_on


def report_with(folder: Path, **config: Any) -> LintReport:
    adapter = plain()
    adapter.config |= config
    return report_on(adapter, folder)


def test_all_paths_are_in_one_finding(tmp_path: Path) -> None:
    report = report_with(
        tmp_path,
        corda_config={"cache_file": "/home/alice/svd.pt", "covariance_file": "cov.pt"},
        loftq_config={"x": "https://intranet.example/q"},
    )
    (found,) = report.findings
    assert (found.rule, found.where) == ("config-unread-path", "adapter_config.json: corda_config")
    assert found.message.startswith("3 paths in fields that nothing reads: ")
    for part in ("corda_config.cache_file is '/home/alice/svd.pt'", "cov.pt", "intranet.example"):
        assert part in found.message
    assert report.accepted


@pytest.mark.parametrize(
    "config",
    [
        {"lora_ga_config": {"cache_file": "grads"}},
        {"eva_config": {"note": {"from": ["~/data"]}}},
        {"peft_version": "/opt/peft"},
        {"megatron_config": {"save": "/scratch/me"}},
        {"some_trainer_field": "C:\\Users\\me\\out"},
        {"runtime_config": {"offload_dir": "x"}},
    ],
)
def test_every_field_that_nothing_reads_is_searched(config: Any, tmp_path: Path) -> None:
    rules = [finding.rule for finding in report_with(tmp_path, **config).findings]
    assert rules.count("config-unread-path") == 1


@pytest.mark.parametrize(
    "config",
    [
        {"loftq_config": {}, "eva_config": {"rho": 2.0, "tau": 0.99}},
        {"corda_config": {"cache_file": None, "corda_method": "kpm"}},
        {"target_modules": r"^model\.layers\.\d+\..*_proj$"},
        {"base_model_name_or_path": "/home/alice/phi3"},  # config-machine-path reports it
    ],
)
def test_healthy_and_otherwise_reported_values_are_not_found(config: Any, tmp_path: Path) -> None:
    rules = {finding.rule for finding in report_with(tmp_path, **config).findings}
    assert "config-unread-path" not in rules


def test_removing_the_entries_as_the_fix_says_gives_the_same_adapter(tmp_path: Path) -> None:
    assert report_with(tmp_path, corda_config={}, loftq_config={}).findings == ()


def test_many_paths_are_shortened_and_printable(tmp_path: Path) -> None:
    many = {f"f{n}": f"/x/{n}\x1b[31m" + "y" * 90 for n in range(50)}
    (found,) = report_with(tmp_path, corda_config=many).findings
    assert "and 46 more" in found.message
    assert "\x1b" not in found.message
