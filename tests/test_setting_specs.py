"""The table of settings is consistent, and its help texts fit their options."""

from dataclasses import fields

import pytest

from phi3_lora_qa.setting_specs import SPECS, SettingSpec, option, server_of
from phi3_lora_qa.settings import GateSettings


def test_every_setting_has_a_field_and_every_field_a_setting() -> None:
    names = {field.name for field in fields(GateSettings)} - {"sources", "starts"}
    assert [spec.name for spec in SPECS if spec.name not in names] == []
    assert names == {spec.name for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_default_is_valid_and_the_help_is_one_short_phrase(spec: SettingSpec) -> None:
    if spec.choices and spec.default is not None:
        values = spec.default if isinstance(spec.default, tuple) else (spec.default,)
        assert set(values) <= set(spec.choices)
    if spec.validator:
        assert spec.validator(str(spec.default))
        assert spec.description
    assert spec.help.strip() == spec.help
    assert not spec.help.endswith(".")
    assert len(spec.help) < 160


def test_an_option_is_made_from_the_name() -> None:
    assert option(SettingSpec(name="early_stop", help="")) == "--phi3-early-stop"


def test_a_server_url_loses_its_final_slash_and_other_backends_have_none() -> None:
    assert server_of("openai:https://a.example/v1/") == "https://a.example/v1"
    assert server_of("transformers") == ""
