"""An adapter that equals the one that it was trained from is rejected; part of it is a warning."""

from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.parent_adapter import open_parent
from tests.adapter.adapters import UNTRIED, Adapter, factors, plain
from tests.adapter.packing import bf16
from tests.adapter.tiny_base import module_names


def report(own: Adapter, parent: Adapter | None, folder: Path) -> LintReport:
    start = open_parent(AdapterFolder.open(parent.save(folder / "parent"))) if parent else None
    return lint(AdapterFolder.open(own.save(folder / "own")), None, UNTRIED, parent=start)


def trained(modules: list[str] | None = None) -> Adapter:
    """Return the plain adapter after a step of training of some modules, by default of all."""
    adapter, random = plain(), np.random.default_rng(9)
    for name in adapter.tensors:
        if modules is None or any(module in name for module in modules):
            array = adapter.array(name)
            noise = random.normal(0, 1e-3, array.shape)
            adapter.tensors[name] = array + np.asarray(noise, "float32")
    return adapter


def test_an_adapter_that_was_trained_is_accepted(tmp_path: Path) -> None:
    found = report(trained(), plain(), tmp_path)
    assert found.findings == ()
    assert {"values-parent-equal", "values-parent-unchanged"} <= set(found.rules_run)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("equal", "to the bit"),
        ("rounded", "apart from rounding"),
        ("rescaled", "the delta B·A of every module is the parent's"),
    ],
)
def test_an_adapter_that_is_its_parent_is_rejected(kind: str, words: str, tmp_path: Path) -> None:
    own = plain()
    for name in own.tensors:
        if kind == "rounded":
            own.tensors[name] = bf16(own.array(name))
        elif kind == "rescaled":
            by = np.float32(2.5 if "lora_A" in name else 0.4)
            own.tensors[name] = own.array(name) * by
    found = report(own, plain(), tmp_path)
    (finding,) = found.findings
    assert finding.rule == "values-parent-equal"
    assert words in finding.message
    assert not found.accepted


def test_modules_that_did_not_change_are_a_warning_that_names_them(tmp_path: Path) -> None:
    found = report(trained(["layers.1.mlp.down_proj"]), plain(), tmp_path)
    (finding,) = found.findings
    assert finding.rule == "values-parent-unchanged"
    assert finding.message.startswith("7 of 8 modules are the parent's: model.layers.0.")
    assert "training changed model.layers.1.mlp.down_proj" in finding.message
    assert found.accepted


def test_a_parent_of_other_modules_compares_nothing_and_says_so(tmp_path: Path) -> None:
    parent = plain()
    parent.config["target_modules"] = ["lm_head"]
    parent.tensors = factors(["lm_head"])
    found = report(plain(), parent, tmp_path)
    (finding,) = found.findings
    assert "the parent has none of this adapter's modules" in finding.message
    assert finding.fix == "pass the adapter that this one was trained from"


def test_an_adapter_with_new_modules_is_not_its_parent(tmp_path: Path) -> None:
    parent = plain()
    parent.config["target_modules"] = ["o_proj"]
    parent.tensors = {n: t for n, t in parent.tensors.items() if "o_proj" in n}
    found = report(plain(), parent, tmp_path)
    assert [f.rule for f in found.findings] == ["values-parent-unchanged"]
    assert len(module_names(("o_proj",))) == 2
    assert found.findings[0].message.startswith("2 of 8 modules are the parent's")


def test_without_a_parent_the_rules_are_left_out_silently(tmp_path: Path) -> None:
    found = report(plain(), None, tmp_path)
    named = {*found.rules_run, *(rule.rule for rule in found.unchecked)}
    assert not any("parent" in rule for rule in named)


def test_an_adapter_with_config_faults_is_still_compared(tmp_path: Path) -> None:
    own = plain()
    own.config["r"] = 0
    rules = {f.rule for f in report(own, plain(), tmp_path).findings}
    assert {"config-value", "values-parent-equal"} <= rules
