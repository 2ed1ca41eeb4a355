import gzip
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, FileKind, foreign_kind, kind_of
from phi3_lora_qa.models.paths import bundled

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214\nsize 12345\n"


def _zip(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "text")
    return stream.getvalue()


def _torch(legacy: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def _numpy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", FileKind.EMPTY),
        (POINTER, FileKind.LFS_POINTER),
        (POINTER.replace(b"\n", b"\r\n"), FileKind.LFS_POINTER),
        (b"version https://hawser.github.com/spec/v1\n", FileKind.LFS_POINTER),
        (b"<!DOCTYPE html>\n<html class=''>", FileKind.WEB_PAGE),
        (b"\xef\xbb\xbf\n\n<HTML>", FileKind.WEB_PAGE),
        (b"<!-- saved -->\n<!doctype html>", FileKind.WEB_PAGE),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C">', FileKind.WEB_PAGE),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', FileKind.XML),
        (b"Entry not found", FileKind.SERVER_MESSAGE),
        (b"Access to model a/b is restricted.", FileKind.SERVER_MESSAGE),
        (b"Invalid username or password.", FileKind.SERVER_MESSAGE),
        (b'{"error":"Repository not found"}', FileKind.SERVER_MESSAGE),
        (b"{}", FileKind.JSON),
        (b'[\n  "a"\n]', FileKind.JSON),
        (save({"a": np.zeros(3, np.float32)}), FileKind.SAFETENSORS),
        (b"GGUF\x03\x00\x00\x00", FileKind.GGUF),
        (gzip.compress(b"text", mtime=0), FileKind.GZIP),
        (_zip("adapter_model.safetensors"), FileKind.ZIP),
        (_torch(legacy=False), FileKind.TORCH_ARCHIVE),
        (_torch(legacy=True), FileKind.PICKLE),
        (pickle.dumps({"a": 1}), FileKind.PICKLE),
        (_numpy(), FileKind.NUMPY),
        (b"%PDF-1.7", FileKind.IMAGE),
        (b"a" * 257 + b"ustar", FileKind.ARCHIVE),
        (b"Hello.", None),
        (b"{{ bos_token }}{% for message in messages %}", None),
        (b"[INST] {{ messages }}", None),
        (b"404 bees, and much more text." + b"." * HEAD_BYTES, None),
    ],
)
def test_a_file_is_recognised_by_its_first_bytes(data: bytes, kind: FileKind | None) -> None:
    assert kind_of(data[:HEAD_BYTES]) is kind


@given(st.binary(max_size=80))
def test_any_bytes_have_a_kind_or_none(data: bytes) -> None:
    for kind in (kind_of(data), foreign_kind("a.json", data)):
        assert kind is None or (kind.value and kind.fix)


def test_no_file_of_a_real_base_is_foreign() -> None:
    files = [path for path in (bundled("tiny") / "base").iterdir() if path.is_file()]
    assert len(files) > 4
    for path in files:
        assert foreign_kind(path.name, path.read_bytes()[:HEAD_BYTES]) is None, path.name


@pytest.mark.parametrize(
    ("name", "data", "is_foreign"),
    [
        ("tokenizer.json", POINTER, True),
        ("tokenizer.model", POINTER, True),
        ("chat_template.jinja", POINTER, True),
        ("adapter_model.bin", POINTER, True),
        ("README.md", POINTER, True),
        ("adapter_config.json", b"", True),
        ("adapter_config.json", b"Entry not found", True),
        ("adapter_model.bin", _torch(legacy=False), False),
        ("adapter_model.safetensors", _torch(legacy=False), True),
        ("adapter_model.safetensors", b"{}", True),
        ("adapter_model.safetensors.index.json", json.dumps({"a": 1}).encode(), False),
        ("tokenizer.model", b"{}", True),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>", False),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", False),
        ("additional_chat_templates/tool.jinja", b"", False),
        ("notes", b"<!doctype html>", False),
    ],
)
def test_a_name_promises_a_kind(name: str, data: bytes, is_foreign: bool) -> None:
    assert (foreign_kind(name, data) is not None) is is_foreign
