import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phi3_lora_qa.adapter.safetensors_file import (
    MAX_TENSORS,
    SafetensorsFile,
    open_path,
    open_safetensors,
)
from phi3_lora_qa.errors import AdapterError, BaseModelError
from tests.adapter.packing import Array, bf16, pack, pack_header

GOOD = pack({"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(2, "f2")})


def opened(data: bytes, folder: Path) -> SafetensorsFile:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    return open_safetensors(lambda: path.open("rb", buffering=0), "x.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=9, alphabet=st.characters(exclude_categories=["Cs"])),
        hnp.arrays(
            st.sampled_from(["f4", "f2", "f8"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
        ),
        max_size=4,
    )
)
def test_tensors_are_equal_to_those_of_the_reference_parser(tensors: dict[str, Array]) -> None:
    import tempfile

    from safetensors.numpy import load

    tensors.pop("__metadata__", None)
    data = pack(tensors)
    reference = load(data)
    with tempfile.TemporaryDirectory() as place:
        file = opened(data, Path(place))
        assert set(file.tensors) == set(reference)
        for name, expected in reference.items():
            np.testing.assert_array_equal(file.tensor(name), expected)


def test_bfloat16_is_decoded(folder: Path) -> None:
    exact = np.array([[1.0, -2.5], [np.inf, 2.0**-126]], "f4")
    file = opened(pack({"a": bf16(exact)}), folder)
    np.testing.assert_array_equal(file.tensor("a"), exact)


def test_single_rows_are_read(folder: Path) -> None:
    file = opened(GOOD, folder)
    np.testing.assert_array_equal(file.tensor("a", slice(1, 9)), [[3, 4, 5]])
    assert file.tensor("a", slice(2, 1)).shape == (0, 3)


def header(**entry: Any) -> bytes:
    return pack_header(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | entry}, b"0000"
    )


def bytes_at(start: int, size: int = 2) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (b"1234567", "only 7 bytes"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "zip": (b"PK\x03\x04" + bytes(50), "is a zip archive; unpack"),
    "torch's zip": (b"PK\x03\x04" + bytes(26) + b"x/data.pkl", "safe_serialization"),
    "a web page": (b"<!doctype html><html>", "is a web page; download the file itself"),
    "JSON": (b'{"answer": 42}', "is a JSON document"),
    "a server's message": (b'{"error": "not found"}', "is a message of a server; log in"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "is a gzip archive; unpack"),
    "gguf": (b"GGUF\x03" + bytes(50), "is a GGUF file"),
    "pickle": (b"\x80\x02" + bytes(50), "safe_serialization"),
    "header too long": (struct.pack("<Q", 2**63) + b"{}", "declares a header"),
    "header cut": (struct.pack("<Q", 100) + b"{}", "ends within its header"),
    "not an object": (pack_header(b"[]"), "no JSON header"),
    "not JSON": (pack_header(b"{"), "not valid JSON"),
    "duplicate": (pack_header(b'{"a": 1, "a": 2}'), "is duplicated"),
    "metadata": (pack_header({"__metadata__": {"a": 1}}), "strings to strings"),
    "truncated": (GOOD[:-1], "1 bytes are missing"),
    "trailing": (GOOD + b"x", "1 bytes follow"),
    "dtype": (header(dtype="F128"), "unknown dtype"),
    "dtype a list": (header(dtype=[]), "unknown dtype"),
    "negative": (header(shape=[-1]), "impossible shape"),
    "float shape": (header(shape=[1.0]), "impossible shape"),
    "bool shape": (header(shape=[True]), "impossible shape"),
    "shape a string": (header(shape="1"), "impossible shape"),
    "many dimensions": (header(shape=[1] * 9), "impossible shape"),
    "overflow": (header(shape=[2**40, 2**40, 2**40]), "do not match data_offsets"),
    "offsets": (header(data_offsets=[4, 0]), "impossible data_offsets"),
    "one offset": (header(data_offsets=[0]), "impossible data_offsets"),
    "too small": (header(shape=[2]), "do not match data_offsets"),
    "extra field": (header(more=1), "must have dtype"),
    "no entry": (pack_header({"a": 1}), "must have dtype"),
    "gap": (header(data_offsets=[4, 8]) + b"0000", "leave a gap"),
    "overlap": (pack_header({"a": bytes_at(0), "b": bytes_at(1)}, b"000"), "overlap"),
    "many": (pack_header({f"{n}": bytes_at(0, 0) for n in range(MAX_TENSORS + 1)}), "at most 16"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_an_invalid_file_is_rejected_with_the_reason(kind: str, folder: Path) -> None:
    data, why = BAD[kind]
    with pytest.raises(AdapterError, match=why) as caught:
        opened(data, folder)
    assert str(caught.value).isprintable()
    assert "; " in str(caught.value)


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_file_gives_a_matching_header_or_an_error(data: st.DataObject) -> None:
    import tempfile

    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as place:
        try:
            file = opened(bytes(mutated), Path(place))
        except AdapterError:
            return
        for name, info in file.tensors.items():
            if info.dtype in ("F32", "F16", "BF16", "F64"):
                assert file.tensor(name).shape == info.shape


def test_a_file_that_becomes_shorter_is_an_error(folder: Path) -> None:
    file = opened(GOOD, folder)
    (folder / "x.safetensors").write_bytes(GOOD[:-8])
    with pytest.raises(AdapterError, match="became shorter"):
        file.tensor("b")


def test_an_unsupported_dtype_is_an_error(folder: Path) -> None:
    file = opened(pack({"a": np.zeros(2, "int8")}), folder)
    with pytest.raises(AdapterError, match="I8"):
        file.tensor("a")


def test_the_error_class_for_a_base_can_be_chosen(folder: Path) -> None:
    (folder / "base.safetensors").write_bytes(b"")
    with pytest.raises(BaseModelError):
        open_path(folder / "base.safetensors", error=BaseModelError)
