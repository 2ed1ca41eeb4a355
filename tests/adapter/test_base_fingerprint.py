"""The fingerprint of a base depends on its values, and not on how they are stored."""

from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from tests.adapter.packing import bf16, pack
from tests.adapter.tiny_base import write_base


def exact_in_bfloat16(folder: Path) -> dict[str, np.ndarray]:
    """Return the base's tensors, rounded so that every dtype can represent them."""
    base = BaseFiles.open(write_base(folder))
    tensors = {name: base.files[0].tensor(name) for name in base.files[0].tensors}
    return {n: np.ldexp(np.round(t * 64), -6).astype("float32") for n, t in tensors.items()}


def fingerprint_of(folder: Path, tensors: object) -> str:
    (folder / "model.safetensors").write_bytes(pack(tensors))  # type: ignore[arg-type]
    return BaseFiles.open(folder).fingerprint


def test_the_fingerprint_is_the_same_for_every_dtype(tmp_path: Path) -> None:
    tensors = exact_in_bfloat16(tmp_path)
    found = {
        fingerprint_of(tmp_path, tensors),
        fingerprint_of(tmp_path, {n: t.astype("float16") for n, t in tensors.items()}),
        fingerprint_of(tmp_path, {n: t.astype("float64") for n, t in tensors.items()}),
        fingerprint_of(tmp_path, {n: bf16(t) for n, t in tensors.items()}),
        fingerprint_of(tmp_path, dict(reversed(tensors.items()))),
    }
    assert len(found) == 1
    assert len(found.pop()) == 64


@pytest.mark.parametrize("change", ["values", "a row", "a shape", "a name", "a missing tensor"])
def test_a_different_base_has_a_different_fingerprint(change: str, tmp_path: Path) -> None:
    tensors = exact_in_bfloat16(tmp_path)
    before = fingerprint_of(tmp_path, tensors)
    name = "model.embed_tokens.weight"
    match change:
        case "values":
            tensors = {n: t + np.float32(0.25) for n, t in tensors.items()}
        case "a row":
            tensors[name][0] += 1
        case "a shape":
            tensors[name] = tensors[name][:-1]
        case "a name":
            tensors["model.extra.weight"] = tensors.pop("model.norm.weight")
        case _:
            del tensors["model.layers.1.mlp.down_proj.weight"]
    assert fingerprint_of(tmp_path, tensors) != before


def test_the_file_may_contain_a_tied_head_or_not(tmp_path: Path) -> None:
    write_base(tmp_path, tie_word_embeddings=True)
    tensors = exact_in_bfloat16(tmp_path / "other")
    with_head = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    without = {n: t for n, t in tensors.items() if n != "lm_head.weight"}
    assert fingerprint_of(tmp_path, with_head) == fingerprint_of(tmp_path, without)


def test_without_weights_the_fingerprint_is_empty(tmp_path: Path) -> None:
    write_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert BaseFiles.open(tmp_path).fingerprint == ""
