"""Tests of the messages and fixes of the rules about names, shapes and dtypes."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.finding import Finding
from tests.adapter.adapters import P, plain, report_on
from tests.adapter.faults import spoil
from tests.adapter.healthy import embeddings

B = f"{P}model.layers.0.self_attn.qkv_proj.lora_B.weight"


def first(fault: str, folder: Path, rule: str) -> Finding:
    report = report_on(spoil(plain(), fault, 0), folder)
    return next(finding for finding in report.findings if finding.rule == rule)


@pytest.mark.parametrize(
    ("fault", "cause", "fix"),
    [
        ("transposed", "its rank is on the other axis", "transpose the tensor"),
        ("empty shard", "it is an empty shard", "gather ZeRO-3's shards"),
        ("flattened", "it is a flattened shard", "FULL_STATE_DICT"),
        ("rank wrong", "its rank is 4, but the config sets 8", "set r or rank_pattern"),
    ],
)
def test_a_wrong_shape_is_explained(fault: str, cause: str, fix: str, tmp_path: Path) -> None:
    found = first(fault, tmp_path, "tensors-shape")
    assert found.message.startswith("the shape is ")
    assert found.message.endswith(f": {cause}")
    assert fix in found.fix


def test_a_split_projection_is_fixed_by_the_command_that_fuses(tmp_path: Path) -> None:
    found = first("split projections", tmp_path, "tensors-unknown-module")
    assert found.message == "the base has no module model.layers.0.self_attn.q_proj"
    assert found.fix.endswith("run phi3-lora-qa convert fuse ADAPTER --base BASE -o DIR")


def test_a_missing_factor_is_reported_with_its_module(tmp_path: Path) -> None:
    adapter = plain()
    del adapter.tensors[B]
    (found,) = report_on(adapter, tmp_path).findings
    assert found.where == "model.layers.0.self_attn.qkv_proj"
    assert found.message == "lora_B.weight of model.layers.0.self_attn.qkv_proj is missing"


def test_another_programs_name_of_the_head_is_renamed(tmp_path: Path) -> None:
    """tinker-cookbook calls the head unembed_tokens."""
    adapter = embeddings()
    adapter.tensors = {n: t for n, t in adapter.tensors.items() if "base_layer" not in n}
    adapter.rename(lambda name: name.replace(f"{P}lm_head", f"{P}model.unembed_tokens"))
    found = [f for f in report_on(adapter, tmp_path).findings if f.rule == "tensors-unknown-module"]
    assert {finding.fix.partition(",")[0] for finding in found} == {
        "rename model.unembed_tokens to lm_head"
    }
    adapter.rename(lambda name: name.replace("model.unembed_tokens", "lm_head"))
    assert report_on(adapter, tmp_path / "renamed").accepted
