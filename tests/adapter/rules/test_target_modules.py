"""Tests of the rules about names, layers and patterns in the config."""

from pathlib import Path

import pytest

from tests.adapter.adapters import factors, plain, report_on
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import LEAVES, module_names, write_base


def test_an_idle_pattern_is_reported(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["rank_pattern"] = {"q_proj": 4}
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings] == ["tensors-target-idle"]
    assert "q_proj matches no adapted module" in report.findings[0].message


@pytest.mark.parametrize("alpha", [0, 4])
def test_an_idle_pattern_with_an_alpha_of_zero_is_only_reported_as_idle(
    alpha: float, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["alpha_pattern"] = {"nope": alpha}
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings if f.rule.partition("-")[0] != "export"] == [
        "tensors-target-idle"
    ]
    assert report.accepted


@pytest.mark.parametrize("based", [False, True])
def test_a_layer_that_does_not_exist_is_reported(based: bool, tmp_path: Path) -> None:
    """peft ignores it, so nothing is lost if there are no tensors for it."""
    adapter = plain()
    adapter.config["layers_to_transform"] = [0, 1, 99]
    base = write_base(tmp_path / "base") if based else None
    report = report_on(adapter, tmp_path / "adapter", base)
    assert [f.rule for f in report.findings] == ["tensors-target-idle"]
    assert "no layer 99" in report.findings[0].message


def test_without_a_base_a_layer_that_some_phi3_has_counts_as_missing(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["layers_to_transform"] = [0, 1, 2]
    assert "tensors-missing" in {f.rule for f in report_on(adapter, tmp_path).findings}
    based = report_on(adapter, tmp_path / "again", write_base(tmp_path / "base"))
    assert [f.rule for f in based.findings] == ["tensors-target-idle"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exclude_modules", ["q_proj"]),
        ("target_parameters", ["mlp.experts"]),
        ("modules_to_save", ["score"]),
        ("modules_to_save", ["lmhead"]),
    ],
)
def test_a_name_that_matches_nothing_is_reported(field: str, value: object, tmp_path: Path) -> None:
    adapter = plain()
    adapter.config[field] = value
    report = report_on(adapter, tmp_path)
    assert {f.rule for f in report.findings if f.rule.startswith("tensors")} == {
        "tensors-target-idle"
    }
    assert report.accepted


def test_the_fix_for_a_split_projection_names_the_fused_one(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = [*LEAVES, "up_proj"]
    assert "gate_up_proj instead of up_proj" in report_on(adapter, tmp_path).findings[0].fix


SPLIT_NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize(
    "targets", [SPLIT_NAMES, rf"^model\.layers\.\d+\..*\.({'|'.join(SPLIT_NAMES)})$"]
)
def test_llamas_names_give_one_finding_that_says_what_was_trained(
    targets: object, based: bool, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["target_modules"] = targets
    adapter.tensors = factors(module_names(("o_proj", "down_proj")))
    base = write_base(tmp_path / "base") if based else None
    (found,) = report_on(adapter, tmp_path / "adapter", base).findings
    assert found.rule == "tensors-target-idle"
    assert found.message == (
        "only o_proj and down_proj were trained: 2 of the 7 names in target_modules exist in "
        f"{'the base' if based else 'a Phi-3'}, and q_proj, k_proj, v_proj, gate_proj and up_proj "
        "match no module"
    )
    assert found.fix.startswith(
        "train again with qkv_proj instead of q_proj, k_proj and v_proj, and gate_up_proj "
        "instead of gate_proj and up_proj, or remove"
    )


def test_one_name_of_many_that_matches_nothing_is_reported_without_only(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = [*LEAVES, "dense"]
    (found,) = report_on(adapter, tmp_path).findings
    assert found.message.startswith("qkv_proj, o_proj, gate_up_proj and down_proj were trained: 4")
    assert found.fix.startswith("correct dense in target_modules")


def test_a_name_that_was_trained_on_another_base_is_not_called_idle(tmp_path: Path) -> None:
    """Its factors are in the file, so "only o_proj was trained" would be untrue."""
    adapter = plain()
    adapter.config["target_modules"] = ["q_proj", "o_proj"]
    adapter.tensors = factors(module_names(("o_proj",)))
    trained = factors(module_names(("o_proj",)))
    adapter.tensors |= {n.replace("o_proj", "q_proj"): t for n, t in trained.items()}
    rules = {f.rule for f in report_on(adapter, tmp_path).findings}
    assert rules == {"config-other-base"}


def test_targets_that_match_nothing_at_all_are_one_error(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = ["q_proj", "k_proj"]
    adapter.tensors = {}
    rules = {f.rule for f in report_on(adapter, tmp_path).findings}
    assert "tensors-target-unsupported" in rules
    assert "tensors-target-idle" not in rules


@pytest.mark.parametrize(
    ("tables", "tied", "rejected"),
    [(1, True, True), (1, False, False), (1, None, False), (2, False, False), (2, None, True)],
)
def test_one_pair_of_factors_for_two_tied_tables_is_rejected(
    tables: int, tied: bool | None, rejected: bool, tmp_path: Path
) -> None:
    """With ensure_weight_tying peft adapts the other table too, but only if they are tied.

    Without a base, factors for both tables show that they were.
    """
    adapter = HEALTHY["embeddings"]()
    adapter.config["ensure_weight_tying"] = True
    if tables == 1:
        adapter.config["target_modules"] = ["embed_tokens"]
        adapter.tensors = {n: t for n, t in adapter.tensors.items() if "embed_tokens" in n}
    base = None if tied is None else write_base(tmp_path / "base", tie_word_embeddings=tied)
    report = report_on(adapter, tmp_path / "adapter", base)
    messages = [f.message for f in report.findings if f.rule == "tensors-target-unsupported"]
    assert all("ensure_weight_tying" in message for message in messages)
    assert (bool(messages), not report.accepted) == (rejected, rejected)
