"""A missing part is a fault of the rule, and an unreadable one of the base."""

import pytest

from phi3_lora_qa.adapter.required_parts import as_base_error, required
from phi3_lora_qa.errors import AdapterError, BaseModelError


def test_a_part_that_exists_is_returned() -> None:
    assert required(3) == 3
    assert as_base_error(lambda: 4) == 4


def test_a_missing_part_is_a_fault_of_the_rule() -> None:
    with pytest.raises(LookupError, match="does not declare in its needs"):
        required(None)


def test_what_cannot_be_read_of_the_base_is_the_bases_fault() -> None:
    def read() -> int:
        raise AdapterError("x is damaged", "copy it again")

    with pytest.raises(BaseModelError, match="the base's tokenizer: x is damaged"):
        as_base_error(read)
