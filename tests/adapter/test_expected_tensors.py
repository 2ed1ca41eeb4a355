from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.architecture import LLAMA, PHI3
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import skeleton
from phi3_lora_qa.adapter.config import LoraAdapterConfig, parse_config
from phi3_lora_qa.adapter.expected_tensors import (
    ExpectedLayout,
    assumed_modules,
    derive_expected_tensors,
    majority_sizes,
)
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile, open_path
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import Part, parse_keys, tensor_name
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import Adapter, base_config, plain
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import HIDDEN, MIDDLE, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    return BaseFiles.open(write_base(tmp_path_factory.mktemp("base")))


def config(**fields: Any) -> LoraAdapterConfig:
    parsed = parse_config(base_config() | fields).config
    assert parsed is not None
    return parsed


def layout(base: BaseFiles, *, tied: bool | None = False, **fields: Any) -> ExpectedLayout:
    parsed = config(**fields)
    return derive_expected_tensors(parsed, Matching(parsed), base.modules, tied=tied)


def weights(adapter: Adapter, folder: Path) -> SafetensorsFile:
    AdapterFolder.open(adapter.save(folder))
    return open_path(folder / WEIGHTS, error=AdapterError)


@pytest.mark.parametrize("variant", HEALTHY)
def test_a_healthy_adapter_has_exactly_the_expected_tensors(
    variant: str, base: BaseFiles, tmp_path: Path
) -> None:
    adapter = HEALTHY[variant]()
    parsed = parse_config(adapter.config).config
    assert parsed is not None
    expected = derive_expected_tensors(parsed, Matching(parsed), base.modules, tied=False).tensors
    found = weights(adapter, tmp_path).tensors
    required = {name for name, tensor in expected.items() if not tensor.optional}
    assert required <= found.keys() <= expected.keys()
    for name, info in found.items():
        shape = expected[name].shape
        assert len(shape) == len(info.shape)
        assert all(size in (None, actual) for size, actual in zip(shape, info.shape, strict=True))


def test_a_module_that_is_targeted_twice_is_listed(base: BaseFiles) -> None:
    found = layout(base, target_parameters=["layers.0.mlp.down_proj.weight"])
    assert found.adapted_twice == ("model.layers.0.mlp.down_proj",)


def test_tied_tables_share_the_rows_of_the_same_tokens(base: BaseFiles) -> None:
    tokens = {"embed_tokens": [1], "lm_head": [1]}
    head = tensor_name("lm_head", Part.TOKENS)
    for tied, expected in ((False, False), (None, True)):
        tensors = layout(base, tied=tied, trainable_token_indices=tokens).tensors
        assert tensors[head].optional is expected
    assert head not in layout(base, tied=True, trainable_token_indices=tokens).tensors


def test_without_a_base_layers_and_sizes_follow_from_the_file(tmp_path: Path) -> None:
    file = weights(plain(), tmp_path)
    keys, _ = parse_keys(file.tensors)
    modules = assumed_modules(config(), keys.values(), file.tensors)
    assert modules.keys() == skeleton(PHI3, 2).keys()
    down = modules["model.layers.1.mlp.down_proj"]
    assert (down.inputs, down.outputs) == (MIDDLE, HIDDEN)
    sizes = majority_sizes(keys.values(), file.tensors)
    assert sizes["down_proj", "in"] == MIDDLE


def test_a_layer_that_only_the_config_mentions_counts() -> None:
    named = config(target_modules=["model.layers.5.mlp.down_proj"])
    assert assumed_modules(named, [], {}).keys() == skeleton(PHI3, 6).keys()
    split = assumed_modules(named, [], {}, LLAMA)
    assert split.keys() == skeleton(LLAMA, 6).keys()
    listed = config(layers_to_transform=[7, 99])
    assert assumed_modules(listed, [], {}).keys() == skeleton(PHI3, 8).keys()
