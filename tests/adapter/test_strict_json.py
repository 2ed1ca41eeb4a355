import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.adapter.strict_json import parse_json, parse_object
from phi3_lora_qa.errors import AdapterError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_a_written_document_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), where="x", max_bytes=1 << 20) == value


@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789eE+-.NaInfity\\u').map(str.encode)
)
def test_any_bytes_give_a_value_or_an_adapter_error(data: bytes) -> None:
    with contextlib.suppress(AdapterError):
        parse_json(data, where="x", max_bytes=100)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 1}', "is duplicated"),
        (b'{"b": {"a": 1, "a": 2}}', "is duplicated"),
        (b"NaN", "not a JSON number"),
        (b"[-Infinity]", "not a JSON number"),
        (b"1e999", "too large"),
        (b'"\\ud800"', "not valid JSON"),
        (b'{"\\ud800": 1}', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"[" * 40 + b"]" * 40, "deeper than"),
        (b"[" * 100_000, "deeper than"),
        (b"[" * 5000 + b"]" * 5000, "deeper than"),
        (b"1" * 5000, "not valid JSON"),
        (b" " * 10_000_000, "too large: 10000000 bytes, at most 1048576"),
    ],
)
def test_an_ambiguous_or_oversized_document_is_rejected(data: bytes, why: str) -> None:
    with pytest.raises(AdapterError, match=why):
        parse_json(data, where="x", max_bytes=1 << 20)


def test_the_message_escapes_the_name_and_ends_with_the_fix() -> None:
    with pytest.raises(AdapterError) as caught:
        parse_json(b"{", where="a\nb", max_bytes=9)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("save it again, because it may be incomplete")


def test_a_document_that_is_not_an_object_is_rejected() -> None:
    with pytest.raises(AdapterError, match="not a JSON object: it is a list"):
        parse_object(b"[]", where="x", max_bytes=9)
    assert parse_object(b"{}", where="x", max_bytes=9) == {}
