"""Shards are recognised by their names, which say how many there are."""

import pytest

from phi3_lora_qa.adapter.weight_shards import WeightShards, find_shards


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], None),
        (["adapter_model.safetensors"], None),
        (["model-00001-of-00002.safetensors"], None),
        (["adapter_model-00003-of-00002.safetensors"], None),
        (["adapter_model-00000-of-00000.safetensors"], None),
        (
            ["adapter_model-00002-of-00002.safetensors",
             "adapter_model-00001-of-00002.safetensors"],
            (("adapter_model-00001-of-00002.safetensors",
              "adapter_model-00002-of-00002.safetensors"), 2, False),
        ),
        (["adapter_model-1-of-9.bin"], (("adapter_model-1-of-9.bin",), 9, True)),
        (
            ["adapter_model-1-of-9.safetensors", "adapter_model-1-of-2.safetensors",
             "adapter_model-2-of-2.safetensors"],
            (("adapter_model-1-of-2.safetensors", "adapter_model-2-of-2.safetensors"), 2, False),
        ),
    ],
)  # fmt: skip
def test_the_largest_set_is_found(
    names: list[str], found: tuple[tuple[str, ...], int, bool] | None
) -> None:
    expected = found and WeightShards(names=found[0], total=found[1], is_pickle=found[2])
    assert find_shards(names) == expected


def test_the_number_of_missing_files_follows_from_the_names() -> None:
    found = find_shards(["adapter_model-00002-of-00004.safetensors"])
    assert found
    assert found.missing == 3
