"""Parsing of tokenizer.model: complete models, and bytes that are not a model."""

import struct

import pytest

from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import MAX_FIELDS, parse_pieces
from phi3_lora_qa.errors import AdapterError


def piece(text: bytes, score: float = 0.0) -> bytes:
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + bytes([len(body)]) + body


def test_pieces_have_text_score_and_type() -> None:
    assert parse_pieces(piece(b"a", -1.5) + piece(b"bc")) == (("a", -1.5, 1), ("bc", 0.0, 1))


@pytest.mark.parametrize(
    "data",
    [b"", bytes(5_000_000), b"\x08" * 3, piece(b"a")[:-1], piece(b"a") + b"\x18\x00" * MAX_FIELDS],
    ids=["empty", "zeros", "an unterminated number", "truncated", "too many fields"],
)
def test_bytes_that_are_not_a_model_are_rejected(data: bytes) -> None:
    with pytest.raises(AdapterError, match="not a SentencePiece model; save the tokenizer again"):
        parse_pieces(data)


def test_a_vocabulary_of_phi3s_size_is_read() -> None:
    assert len(parse_pieces(piece(b"x") * 32_064)) == 32_064
