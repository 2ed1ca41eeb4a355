"""Tests of the rules about adapter_config.json."""

from pathlib import Path

from tests.adapter.adapters import plain, report_on


def test_a_negated_and_a_zero_alpha_are_reported_with_their_field(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config |= {"lora_alpha": 0, "alpha_pattern": {"o_proj": -2}}
    found = {f.rule: f for f in report_on(adapter, tmp_path).findings}
    zero, negative = found["config-alpha-zero"], found["config-alpha-negative"]
    assert zero.where == "adapter_config.json: lora_alpha"
    assert zero.message == "lora_alpha is 0, so the adapter has no effect"
    assert negative.message == "alpha_pattern[o_proj] is -2, which negates the adapter"


def test_the_fix_of_an_unsafe_pattern_is_that_of_the_matcher(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = r"([a-z.]|.)*!"
    (found,) = [f for f in report_on(adapter, tmp_path).findings if f.rule == "config-pattern"]
    assert "target_modules" in found.message
    assert "; " not in found.message
    assert found.fix == "write the names of the modules as a list instead"
