"""Every rule below an error has a case in which it reports a fault and the adapter is accepted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.adapter.lint import Severity
from phi3_lora_qa.adapter.rule_catalogue import all_rules
from tests.adapter.adapters import Adapter, factors, plain, report_on
from tests.adapter.tiny_base import module_names


def double(adapter: Adapter) -> None:
    adapter.tensors = {n: adapter.array(n).astype("float64") for n in adapter.tensors}


def collapse(adapter: Adapter) -> None:
    for name in adapter.names("lora_B.weight"):
        array = adapter.array(name).copy()
        array[:, 1:] = array[:, :1] * np.array([2, -1, 0.5], "f4")
        adapter.tensors[name] = array


def move_into_b(adapter: Adapter, by: float) -> None:
    """Make A small and B large, with the same product."""
    for end, factor in (("lora_A.weight", 1 / by), ("lora_B.weight", by / 100)):
        for name in adapter.names(end):
            adapter.tensors[name] = adapter.array(name) * np.float32(factor)


def shrink_in_float16(adapter: Adapter) -> None:
    for name in adapter.names("lora_B.weight"):
        adapter.tensors[name] = (adapter.array(name) * np.float32(1e-4)).astype("float16")


def split_names(adapter: Adapter) -> None:
    adapter.config["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter.tensors = factors(module_names(("o_proj",)))


def write_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")


MILD: dict[str, Callable[[Adapter], object]] = {
    "files-code": lambda a: a.after.append(lambda f: write_file(f, "modeling.py")),
    "files-settings": lambda a: a.after.append(lambda f: write_file(f, "pytest.ini")),
    "files-pickle-beside": lambda a: a.after.append(lambda f: write_file(f, "optimizer.pt")),
    "files-training-log": lambda a: a.files.update(
        {"trainer_state.json": b'{"log_history": [{"loss": NaN, "step": 3}]}'}
    ),
    "files-other-model": lambda a: a.after.append(lambda f: write_file(f, "merged.gguf")),
    "config-base-source": lambda a: a.config.update(revision="develop"),
    "files-subfolders": lambda a: a.after.append(lambda f: (f / "checkpoint-1").mkdir()),
    "config-field-ignored": lambda a: a.config.update(lora_scale=4.0),
    "config-pattern-unmatched": lambda a: a.config.update(target_modules=r"model(\.).*\1.*_proj"),
    "config-alpha-negative": lambda a: a.config.update(lora_alpha=-8),
    "config-task-type-null": lambda a: a.config.update(task_type=None),
    "config-machine-path": lambda a: a.config.update(base_model_name_or_path="/home/me/phi3"),
    "config-unread-path": lambda a: a.config.update(corda_config={"cache_file": "/home/me/x.pt"}),
    "tensors-adapter-name": lambda a: a.rename(lambda n: n.replace(".weight", ".default.weight")),
    "tensors-float64": double,
    "tensors-target-idle": split_names,
    "values-rank-collapse": collapse,
    "values-float16-range": lambda a: move_into_b(a, 1e6),
    "values-float16-subnormal": shrink_in_float16,
}


ELSEWHERE = {
    "manifest-card-changed", "files-oversized", "files-sampling", "values-shared-a",
    "base-saved-unchanged", "values-parent-unchanged",
}  # fmt: skip
"""Their cases are in the tests of their own modules."""


EXPORT = {
    "export-merge", "export-vllm", "export-llama-cpp", "export-scaling", "export-tied-tables",
}  # fmt: skip  # fmt: skip
"""Their cases are in tests/adapter/rules/test_serving.py."""


@pytest.mark.parametrize("rule", MILD)
def test_a_mild_fault_is_reported_and_accepted(rule: str, tmp_path: Path) -> None:
    adapter = plain()
    MILD[rule](adapter)
    report = report_on(adapter, tmp_path)
    assert {f.rule for f in report.findings} == {rule}, report.findings
    assert report.accepted


def test_every_mild_rule_has_a_case() -> None:
    mild = {
        rule.id
        for rule in all_rules()
        if rule.severity is not Severity.ERROR and rule.family != "tokenizer"
    }  # family tokenizer: tests/adapter/rules
    assert mild == {*MILD, *ELSEWHERE, *EXPORT}
