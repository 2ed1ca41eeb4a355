import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from phi3_lora_qa.conversion.fit_to_base import fit_to_base
from phi3_lora_qa.conversion.mlx_adapter import read_mlx_adapter
from phi3_lora_qa.conversion.peft_adapter import write_adapter
from phi3_lora_qa.errors import AdapterError, InputError
from tests.conversion.foreign import (
    BASE,
    LINEAR,
    SPLIT,
    Tensors,
    assert_same_deltas,
    expected_deltas,
    mlx_folder,
    mlx_tensors,
    written_deltas,
)
from tests.split_twin import logits, tiny_model


def converted(source: Path, output: Path, **options: Any) -> Path:
    output.mkdir()
    adapter = fit_to_base(read_mlx_adapter(source, BASE, **options), BASE)
    write_adapter(output, adapter, BASE.modules)
    return output


@pytest.mark.parametrize("names", [LINEAR, SPLIT, LINEAR[8:]])
@pytest.mark.parametrize(("rank", "scale"), [(4, 20.0), (8, 0.1), (6, 1.7), (3, -2.0)])
def test_the_deltas_are_bitwise_those_of_mlx(
    tmp_path: Path, names: tuple[str, ...], rank: int, scale: float
) -> None:
    parameters = {"rank": rank, "scale": scale}
    source = mlx_folder(tmp_path / "mlx", mlx_tensors(names, rank), parameters)
    found = written_deltas(converted(source, tmp_path / "peft"))
    assert_same_deltas(found, expected_deltas(dict.fromkeys(names, (rank, scale)), names))


class MlxLinear(torch.nn.Module):
    """What mlx_lm/tuner/lora.py and dora.py compute, in float64."""

    def __init__(self, linear: Any, tensors: Tensors, name: str, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = linear.weight.double(), scale
        self.a, self.b = (tensors[f"{name}.{part}"].double() for part in ("lora_a", "lora_b"))
        self.m = tensors.get(f"{name}.m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.double()
        out = wide @ self.weight.T + self.scale * ((wide @ self.a) @ self.b)
        if self.m is not None:
            adapted = self.weight + (self.scale * self.b.T) @ self.a.T
            out = (self.m.double() / adapted.norm(dim=1)) * out
        return out.to(x.dtype)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_computes_the_logits_that_mlx_computes(tmp_path: Path, kind: str) -> None:
    tensors = mlx_tensors()
    if kind == "dora":
        for name in LINEAR:
            tensors[f"{name}.m"] = torch.rand(tensors[f"{name}.lora_b"].shape[1]) + 0.5
    parameters = {"rank": 4, "scale": 2.0}
    source = mlx_folder(tmp_path / "mlx", tensors, parameters, fine_tune_type=kind)
    peft = PeftModel.from_pretrained(tiny_model(), str(converted(source, tmp_path / "peft")))
    model = tiny_model()
    plain = logits(model)
    for name in LINEAR:
        parent, _, leaf = name.rpartition(".")
        module = MlxLinear(model.get_submodule(name), tensors, name, 2.0)
        setattr(model.get_submodule(parent), leaf, module)
    expected = logits(model)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(peft.eval()), expected, rtol=1e-3, atol=1e-3)


def test_dora_of_split_projections_keeps_every_magnitude(tmp_path: Path) -> None:
    tensors = mlx_tensors(SPLIT)
    for name in SPLIT:
        tensors[f"{name}.m"] = torch.rand(tensors[f"{name}.lora_b"].shape[1]) + 0.5
    source = mlx_folder(tmp_path / "mlx", tensors, fine_tune_type="dora")
    fused = {m.name: m for m in fit_to_base(read_mlx_adapter(source, BASE), BASE).modules}
    parent = "model.layers.0.self_attn"
    magnitude = fused[f"{parent}.qkv_proj"].magnitude
    assert magnitude is not None
    parts = [tensors[f"{parent}.{part}.m"] for part in ("q_proj", "k_proj", "v_proj")]
    assert torch.equal(magnitude, torch.cat(parts))


def test_dora_of_some_parts_of_a_fused_projection_is_refused(tmp_path: Path) -> None:
    names = tuple(name for name in SPLIT if "k_proj" not in name)
    tensors = mlx_tensors(names)
    for name in names:
        tensors[f"{name}.m"] = torch.ones(tensors[f"{name}.lora_b"].shape[1])
    source = mlx_folder(tmp_path / "mlx", tensors, fine_tune_type="dora")
    with pytest.raises(InputError, match="only some parts have a DoRA magnitude"):
        fit_to_base(read_mlx_adapter(source, BASE), BASE)


def test_an_adapter_of_the_embedding_is_transposed_too(tmp_path: Path) -> None:
    a, b = torch.randn(768, 4), torch.randn(4, 96)
    name = "model.embed_tokens"
    tensors = {f"{name}.lora_a": a, f"{name}.lora_b": b}
    source = mlx_folder(tmp_path / "mlx", tensors)
    out = converted(source, tmp_path / "peft")
    model: Any = PeftModel.from_pretrained(tiny_model(), str(out)).get_base_model()
    table = tiny_model().model.embed_tokens.weight
    ids = torch.arange(768)
    expected = table.double() + 20.0 * (a.double() @ b.double())
    found = model.model.embed_tokens(ids).double()
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "parameters", "options", "scale"),
    [
        ({}, {"rank": 4, "scale": 20}, {}, 20.0),
        ({}, {"rank": 4, "alpha": 64, "scale": 2.0, "dropout": 0.05}, {}, 2.0),
        ({"lora_layers": 4}, {"rank": 4, "alpha": 4, "scale": 3.0}, {}, 3.0),
        ({"lora_layers": 4}, {"rank": 4, "alpha": 16, "scale": 10.0}, {"scale": 40.0}, 40.0),
        ({}, {"rank": 4, "alpha": 16}, {"scale": 4.0}, 4.0),
        ({"num_layers": -1}, {"scale": 5.0, "keys": ["self_attn.qkv_proj"]}, {}, 5.0),
        ({"num_layers": 4, "model": 7}, {"scale": 5.0, "keys": ["qkv_proj"]}, {}, 5.0),
    ],
)
def test_the_scale_is_read_as_mlx_reads_it(
    tmp_path: Path, config: Any, parameters: Any, options: Any, scale: float
) -> None:
    names = ("model.layers.0.self_attn.qkv_proj",)
    old = "lora_layers" in config
    source = mlx_folder(tmp_path / "mlx", mlx_tensors(names), parameters, **config)
    if old:
        content = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
        content = {k: v for k, v in content.items() if k not in ("num_layers", "fine_tune_type")}
        (source / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    (module,) = read_mlx_adapter(source, BASE, **options).modules
    assert module.scaling == scale


def test_the_known_base_behind_a_copy_is_named(tmp_path: Path) -> None:
    source = mlx_folder(tmp_path / "mlx", model="mlx-community/Phi-3-mini-4k-instruct-4bit")
    assert read_mlx_adapter(source, BASE).base == "microsoft/Phi-3-mini-4k-instruct"


FIRST = "model.layers.0.self_attn.qkv_proj"


def old_config(source: Path) -> None:
    content = {"lora_layers": 4, "lora_parameters": {"rank": 4, "alpha": 16, "scale": 10.0}}
    (source / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fine_tune_type": "full"}, "contains whole weights, not factors"),
        ({"fine_tune_type": "galore"}, "fine_tune_type is 'galore'"),
        ({"lora_parameters": [1]}, "lora_parameters is"),
        ({"peft_type": "LORA"}, "is PEFT's, not mlx-lm's"),
        ({"lora_parameters": {"rank": 4}}, "pass --scale"),
        ({"lora_parameters": {"rank": 4, "scale": "2"}}, "must be a finite number: got '2'"),
        ({"lora_parameters": {"rank": 4, "scale": True}}, "must be a finite number: got True"),
        ({"lora_parameters": {"rank": 8, "scale": 2.0}}, "have rank 4, but lora_parameters.rank"),
        ({"lora_parameters": {"rank": 0, "scale": 2.0}}, "integer of at least 1"),
        ({"lora_parameters": {"scale": 2.0, "dropout": 1}}, "at least 0 and below 1"),
        ({"lora_parameters": {"scale": 2.0, "keys": "q"}}, "a list of names"),
        ({"lora_parameters": {"scale": 2.0, "keys": ["x_proj"]}}, "keys does not contain"),
        ({"num_layers": 2}, "only layers 2 to 3 of this base are adapted"),
        ({"num_layers": "4"}, "num_layers must be an integer"),
        ({"fine_tune_type": "dora"}, "lacks m, but fine_tune_type is dora"),
    ],
)
def test_a_config_with_another_meaning_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    source = mlx_folder(tmp_path / "mlx", mlx_tensors((FIRST,)), **change)
    with pytest.raises(AdapterError, match=message):
        read_mlx_adapter(source, BASE)


def test_an_alpha_with_two_meanings_needs_the_option(tmp_path: Path) -> None:
    source = mlx_folder(tmp_path / "mlx")
    old_config(source)
    with pytest.raises(AdapterError, match=r"pass --scale: scale \* alpha / rank"):
        read_mlx_adapter(source, BASE)
    assert read_mlx_adapter(source, BASE, scale=40.0).modules[0].scaling == 40.0


FAULTS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "no lora_b": ({f"{FIRST}.lora_b": None}, "lacks lora_b"),
    "m": ({f"{FIRST}.m": torch.ones(192)}, "has m, but fine_tune_type is lora"),
    "bias": ({f"{FIRST}.bias": torch.ones(192)}, "not a factor of mlx-lm"),
    "no module": ({"lora_a": torch.ones(2, 2)}, "not a factor of mlx-lm"),
    "rank 0": ({f"{FIRST}.lora_a": torch.zeros(96, 0)}, "do not fit each other"),
    "other rank": ({f"{FIRST}.lora_a": torch.zeros(96, 5)}, "do not fit each other"),
    "vector": ({f"{FIRST}.lora_a": torch.zeros(4)}, "do not fit each other"),
    "other dtype": ({f"{FIRST}.lora_a": torch.zeros(96, 4).half()}, "do not fit each other"),
    "integers": (
        {f"{FIRST}.{part}": torch.ones(4, 4).long() for part in ("lora_a", "lora_b")},
        "do not fit each other",
    ),
    "experts": (
        {f"{FIRST}.{part}": torch.ones(8, 4, 4) for part in ("lora_a", "lora_b")},
        "factors for each expert",
    ),
    "nothing": ({f"{FIRST}.lora_a": None, f"{FIRST}.lora_b": None}, "contains no factors"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tensors_that_are_not_pairs_of_factors_are_refused(tmp_path: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    tensors = {n: t for n, t in (mlx_tensors((FIRST,)) | changes).items() if t is not None}
    with pytest.raises(AdapterError, match=message):
        read_mlx_adapter(mlx_folder(tmp_path / "mlx", tensors), BASE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.9.self_attn.qkv_proj", "no such layer"),
        ("model.layers.99999999999.self_attn.qkv_proj", "no such layer"),
        ("language_model.model.layers.0.self_attn.qkv_proj", "no such layer"),
        ("model.layers.0.self_attn.o_proj", "the base has"),
    ],
)
def test_factors_of_another_base_are_refused(tmp_path: Path, name: str, message: str) -> None:
    tensors = {n.replace(FIRST, name): t for n, t in mlx_tensors((FIRST,)).items()}
    source = mlx_folder(tmp_path / "mlx", tensors)
    with pytest.raises(InputError, match=message):
        fit_to_base(read_mlx_adapter(source, BASE), BASE)


def test_tied_tables_are_refused_by_name(tmp_path: Path) -> None:
    tied = replace(BASE, config={**BASE.config, "tie_word_embeddings": True})
    name = "model.embed_tokens"
    tensors = {f"{name}.lora_a": torch.ones(768, 4), f"{name}.lora_b": torch.ones(4, 96)}
    source = mlx_folder(tmp_path / "mlx", tensors)
    with pytest.raises(AdapterError, match="LoRA of tied tables differently"):
        read_mlx_adapter(source, tied)


def test_the_command_named_for_an_old_file_makes_it_readable(tmp_path: Path) -> None:
    source = mlx_folder(tmp_path / "mlx")
    (source / "adapters.safetensors").unlink()
    arrays: dict[str, Any] = {n: t.numpy() for n, t in mlx_tensors().items()}
    np.savez(source / "adapters.npz", **arrays)
    with pytest.raises(AdapterError) as caught:
        read_mlx_adapter(source, BASE)
    code = caught.value.fix.partition('-c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True)
    assert len(read_mlx_adapter(source, BASE).modules) == len(LINEAR)


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    source = mlx_folder(tmp_path / "mlx")
    save_file(mlx_tensors(), source / "other.safetensors")
    (source / "adapters.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"has no adapters\.safetensors"):
        read_mlx_adapter(source, BASE)
