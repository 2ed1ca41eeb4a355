from pathlib import Path

import pytest

from phi3_lora_qa.errors import DataError, InputError
from phi3_lora_qa.toml_file import MOST_BYTES, read_toml


def test_tables_are_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    for name, start in (("plain.toml", b""), ("marked.toml", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(start + b"[a]\nb = 1\n")
        assert read_toml(tmp_path / name, "the file") == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "content",
    [None, b"[a", b"\xff", b"a = " + b"[" * 5000, b"#" * (MOST_BYTES + 1)],
    ids=["missing", "not TOML", "not UTF-8", "too deep", "too large"],
)
def test_a_file_that_cannot_be_read_is_reported_with_what_to_pass(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^cannot read the limits .*; pass a list of tables$"):
        read_toml(path, "the limits", "a list of tables")


def test_the_kind_of_error_can_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_toml(tmp_path, "the limits", error=DataError)
