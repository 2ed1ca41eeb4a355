from typing import Any

import pytest

from phi3_lora_qa.adapter.config_schema import CHANGES_BASE, FIELDS, REFUSED, SAFE_INIT, init_label
from tests.adapter.adapters import base_config


@pytest.mark.parametrize("label", [*SAFE_INIT, *CHANGES_BASE, None])
def test_known_init_labels_are_read(label: Any) -> None:
    assert init_label(label) == label


def test_init_labels_ignore_case_and_may_have_a_number_of_iterations() -> None:
    assert init_label("PiSSA_niter_16") == "pissa_niter_16"


@pytest.mark.parametrize("label", ["loha", "", 1, []])
def test_unknown_init_labels_are_an_error(label: Any) -> None:
    with pytest.raises(ValueError, match="must be true, false, or one of"):
        init_label(label)


def test_every_field_that_peft_writes_is_either_read_or_rejected() -> None:
    assert set(base_config()) <= {*FIELDS, *REFUSED, "auto_mapping"}
    assert not set(FIELDS) & set(REFUSED)


def test_defaults_of_optional_fields_can_be_read_back() -> None:
    for name in ("inference_mode", "lora_dropout", "use_dora", "bias", "init_lora_weights"):
        assert FIELDS[name].read(FIELDS[name].default) == FIELDS[name].default, name
