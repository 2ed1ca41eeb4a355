"""Every fault is found in every variant and place, and no healthy adapter is rejected."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.lint import LintReport, Severity
from phi3_lora_qa.adapter.rule_catalogue import all_rules
from tests.adapter.adapters import old_config, plain, report_on
from tests.adapter.faults import FAULTS, cases, spoil
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import write_base

VARIANTS = [
    "plain",
    "dora",
    "lora_bias",
    "rank_pattern",
    "embeddings",
    "saved_head",
    "one_layer",
    "all-linear",
    "regex",
    "orthogonal",
    "trained_tokens",
    "block_diagonal",
    "velora",
    "monteclora",
    "parameters",
]


def errors(report: LintReport) -> set[str]:
    return {f.rule for f in report.findings if f.severity is Severity.ERROR}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.mark.slow
@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("variant", HEALTHY)
def test_a_healthy_adapter_is_accepted_without_a_warning(
    variant: str, based: bool, tmp_path: Path, base: Path
) -> None:
    report = report_on(HEALTHY[variant](), tmp_path, base if based else None)
    assert [f for f in report.findings if f.severity is not Severity.INFO] == []
    assert report.verdict == "accepted"


@pytest.mark.parametrize("version", ["0.5", "0.8", "0.11", "0.14"])
def test_the_config_of_an_older_peft_is_accepted(version: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.config = old_config(version)
    report = report_on(adapter, tmp_path)
    assert report.findings == ()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_rule_in_every_variant_and_place(
    fault: str, tmp_path: Path, base: Path
) -> None:
    missed = []
    fitting = cases(fault, VARIANTS)
    for number, (variant, place, based) in enumerate(fitting):
        adapter = spoil(HEALTHY[variant](), fault, place)
        report = report_on(adapter, tmp_path / str(number), base if based else None)
        if FAULTS[fault].rule not in errors(report) or report.accepted:
            missed.append((variant, place, based, errors(report)))
    assert fitting
    assert missed == []


def test_every_rule_that_rejects_has_a_fault_that_it_finds() -> None:
    covered_here = {fault.rule for fault in FAULTS.values()}
    rejecting = {rule.id for rule in all_rules() if rule.severity is Severity.ERROR}
    elsewhere = {"lint-internal-error", "values-parent-equal"}  # test_lint.py, rules/test_parent.py
    families = {r for r in rejecting if r.startswith(("tokenizer-", "manifest-"))}
    assert rejecting - covered_here - elsewhere - families == set()
