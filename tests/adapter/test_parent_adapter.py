"""A parent is an adapter folder whose weights can be read; its config may be unreadable."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.parent_adapter import open_parent
from phi3_lora_qa.adapter.tensor_names import Part
from phi3_lora_qa.errors import InputError
from tests.adapter.adapters import P, plain
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import module_names


def test_the_trained_tensors_are_listed_by_module(tmp_path: Path) -> None:
    parent = open_parent(AdapterFolder.open(HEALTHY["dora"]().save(tmp_path)))
    parts = parent.parts()
    assert list(parts) == module_names()
    assert set(parts[module_names()[0]]) == {Part.A, Part.B, Part.MAGNITUDE}
    assert parent.scaling is not None
    assert parent.scaling(module_names()[0]) == 2.0


def test_copies_of_the_base_and_names_with_the_adapters_name_count_as_in_peft(
    tmp_path: Path,
) -> None:
    adapter = HEALTHY["embeddings"]()
    adapter.rename(lambda name: name.replace("lora_A.weight", "lora_A.default.weight"))
    parts = open_parent(AdapterFolder.open(adapter.save(tmp_path))).parts()
    assert parts["lm_head"] == {
        Part.A: f"{P}lm_head.lora_A.default.weight",
        Part.B: f"{P}lm_head.lora_B.weight",
    }


def test_without_a_readable_config_there_is_no_scaling(tmp_path: Path) -> None:
    folder = plain().save(tmp_path)
    (folder / "adapter_config.json").write_text("{")
    assert open_parent(AdapterFolder.open(folder)).scaling is None


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"\x00" * 100])
def test_weights_that_cannot_be_read_are_bad_input(content: bytes | None, tmp_path: Path) -> None:
    folder = plain().save(tmp_path)
    weights = folder / "adapter_model.safetensors"
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the parent .*; pass the folder"):
        open_parent(AdapterFolder.open(folder))
