"""Tests of the rule about the base that the adapter is for."""

from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rules.other_bases import other_base
from tests.adapter.adapters import Adapter, plain
from tests.adapter.identity.published import SPLIT, layers, published


def test_another_base_is_reported_and_a_phi_is_not(tmp_path: Path) -> None:
    def found(adapter: Adapter, name: str) -> list[str]:
        context = LintContext(AdapterFolder.open(adapter.save(tmp_path / name)), None)
        return [violation.message for violation in other_base.check(context)]

    assert found(plain(), "phi") == []
    assert found(published("Qwen/Qwen2.5-7B-Instruct", layers(*SPLIT)), "qwen") == [
        "the adapter is for Qwen2.5-7B-Instruct (a Qwen2), not for a Phi-3: "
        "base_model_name_or_path is 'Qwen/Qwen2.5-7B-Instruct', and 14 modules are named "
        "gate_proj, k_proj, q_proj, up_proj, …"
    ]
