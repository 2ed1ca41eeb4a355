import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.conversion.peft_adapter import (
    PeftAdapter,
    PeftModule,
    exact_alpha,
    read_adapter,
    require_fit,
    write_adapter,
)
from phi3_lora_qa.errors import AdapterError, InputError
from phi3_lora_qa.models.registry import bundled

BASE = BaseFiles.open(bundled("tiny/base"))
LAYERS = [name for name in BASE.modules if name.endswith("_proj")]


def module(name: str, rank: int = 2, scaling: float = 2.0) -> PeftModule:
    at = BASE.modules[name]
    assert at.inputs
    assert at.outputs
    a, b = torch.randn(rank, at.inputs) / 100, torch.randn(at.outputs, rank) / 100
    return PeftModule(name=name, A=a, B=b, scaling=scaling)


def adapter(modules: Sequence[PeftModule]) -> PeftAdapter:
    return PeftAdapter(modules=tuple(modules), base="tiny", dropout=0.1)


def config_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def test_reading_the_bundled_adapter_and_writing_it_keeps_every_bit(
    good_adapter: Path, tmp_path: Path
) -> None:
    read = read_adapter(good_adapter)
    write_adapter(tmp_path, read, BASE.modules)
    old, new = (load_file(f / "adapter_model.safetensors") for f in (good_adapter, tmp_path))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    keys = ("r", "lora_alpha", "base_model_name_or_path", "task_type", "peft_type")
    assert {k: config_of(good_adapter)[k] for k in keys} == {
        k: config_of(tmp_path)[k] for k in keys
    }


def test_modules_of_different_rank_and_scaling_are_read_as_they_were_written(
    tmp_path: Path,
) -> None:
    modules = [
        module(LAYERS[0], 2, 2.0),
        module(LAYERS[1], 6, 2.0),
        module(LAYERS[4], 3, 0.3),
        module(LAYERS[5], 6, 2.0),
    ]
    write_adapter(tmp_path, adapter(modules), BASE.modules)
    read = {m.name: m for m in read_adapter(tmp_path).modules}
    assert {n: (m.rank, m.scaling) for n, m in read.items()} == {
        m.name: (m.rank, m.scaling) for m in modules
    }
    assert all(torch.equal(read[m.name].B, m.B) for m in modules)
    assert read_adapter(tmp_path).dropout == 0.1


def test_the_linter_accepts_what_is_written(tmp_path: Path) -> None:
    write_adapter(tmp_path, adapter([module(name) for name in LAYERS]), BASE.modules)
    report = lint(AdapterFolder.open(tmp_path), BASE)
    assert report.accepted, report.findings


def test_a_short_name_is_written_only_if_it_matches_the_same_modules(tmp_path: Path) -> None:
    down = [name for name in LAYERS if name.endswith("down_proj")]
    first = next(name for name in LAYERS if name.endswith("o_proj"))
    write_adapter(tmp_path, adapter([module(name) for name in (*down, first)]), BASE.modules)
    assert config_of(tmp_path)["target_modules"] == sorted(["down_proj", first])


def test_every_value_is_written_the_same_each_time(tmp_path: Path) -> None:
    made = adapter([module(name) for name in LAYERS])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_adapter(tmp_path / name, made, BASE.modules)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@settings(max_examples=1000, derandomize=True, database=None, deadline=None)
@given(st.integers(-1000, 1000), st.integers(1, 64), st.integers(1, 8))
def test_an_integer_alpha_stays_an_exact_integer_when_blocks_are_stacked(
    alpha: int, rank: int, blocks: int
) -> None:
    found = exact_alpha(alpha / rank, rank * blocks, "a")
    assert found == alpha * blocks
    assert isinstance(found, int)
    assert found / (rank * blocks) == alpha / rank


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [1]},
    ],
)
def test_features_that_only_peft_supports_are_refused_by_name(
    adapter_copy: Callable[[str], Path], change: dict[str, Any]
) -> None:
    folder = adapter_copy("adapter")
    text = json.dumps(config_of(folder) | change)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=next(iter(change))):
        read_adapter(folder)


def damage(tensors: dict[str, torch.Tensor], how: str) -> None:
    name = next(iter(tensors))
    if how == "one factor":
        del tensors[name]
    elif how == "shape":
        tensors[name] = tensors[name][:1].contiguous()
    elif how == "dtype":
        tensors[name] = tensors[name].to(torch.bfloat16)
    elif how == "integers":
        tensors.update({n: t.to(torch.int8) for n, t in tensors.items()})
    elif how == "strange name":
        tensors["model.something"] = tensors.pop(name)
    elif how == "table":
        tensors[name.rpartition(".lora_")[0] + ".base_layer.weight"] = torch.zeros(2, 2)
    else:
        tensors.clear()


@pytest.mark.parametrize(
    "how", ["one factor", "shape", "dtype", "integers", "strange name", "table", "nothing"]
)
def test_tensors_that_are_not_pairs_of_factors_are_refused(
    adapter_copy: Callable[[str], Path], how: str
) -> None:
    path = adapter_copy("adapter") / "adapter_model.safetensors"
    tensors = load_file(path)
    damage(tensors, how)
    save_file(tensors, path)
    with pytest.raises(AdapterError):
        read_adapter(path.parent)


def test_factors_are_refused_unless_they_fit_the_base() -> None:
    fitting = adapter([module(LAYERS[0])])
    require_fit(fitting, BASE.modules)
    for wrong, message in (
        (replace(fitting.modules[0], name="model.layers.9.mlp.down_proj"), "no such layer"),
        (replace(fitting.modules[0], A=torch.zeros(2, 5)), "; pass the base"),
    ):
        with pytest.raises(InputError, match=message):
            require_fit(adapter([wrong]), BASE.modules)
