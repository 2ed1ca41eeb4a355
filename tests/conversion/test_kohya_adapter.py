import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from phi3_lora_qa.conversion.fit_to_base import fit_to_base
from phi3_lora_qa.conversion.kohya_adapter import read_kohya_file
from phi3_lora_qa.conversion.peft_adapter import write_adapter
from phi3_lora_qa.errors import AdapterError, InputError
from tests.conversion.foreign import (
    BASE,
    LINEAR,
    SPLIT,
    Tensors,
    assert_same_deltas,
    expected_deltas,
    kohya_tensors,
    written_deltas,
)
from tests.split_twin import logits, tiny_model


def saved(tensors: Tensors, folder: Path) -> Path:
    save_file(tensors, folder / "lora.safetensors", metadata={"ss_network_module": "networks.lora"})
    return folder / "lora.safetensors"


def converted(source: Path, output: Path) -> Path:
    output.mkdir()
    write_adapter(output, fit_to_base(read_kohya_file(source, BASE), BASE), BASE.modules)
    return output


def rank_of(name: str) -> int:
    return {"o_proj": 6, "down_proj": 8, "k_proj": 2}.get(name.rpartition(".")[2], 4)


@pytest.mark.parametrize("names", [LINEAR, SPLIT])
@pytest.mark.parametrize("prefix", ["lora_", "lycoris_", "lora_te_", "lora_unet_", "lora_llm_"])
def test_the_deltas_are_bitwise_those_of_kohya(
    tmp_path: Path, names: tuple[str, ...], prefix: str
) -> None:
    source = saved(kohya_tensors(names, alpha=6.0, prefix=prefix), tmp_path)
    found = written_deltas(converted(source, tmp_path / "peft"))
    assert_same_deltas(found, expected_deltas(dict.fromkeys(names, (4, 1.5)), names))


def test_each_module_keeps_its_own_rank_and_alpha(tmp_path: Path) -> None:
    source = saved(kohya_tensors(alpha=5.0, rank=rank_of), tmp_path)
    found = written_deltas(converted(source, tmp_path / "peft"))
    pairs = {name: (rank_of(name), 5.0 / rank_of(name)) for name in LINEAR}
    assert_same_deltas(found, expected_deltas(pairs, LINEAR))


def test_without_an_alpha_the_scaling_is_one(tmp_path: Path) -> None:
    source = saved(kohya_tensors(alpha=None, rank=rank_of), tmp_path)
    assert {m.scaling for m in read_kohya_file(source, BASE).modules} == {1.0}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float64])
def test_an_alpha_of_any_dtype_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = kohya_tensors(LINEAR[:1])
    key = next(name for name in tensors if name.endswith("alpha"))
    tensors[key] = torch.tensor([16]).to(dtype)
    (module,) = read_kohya_file(saved(tensors, tmp_path), BASE).modules
    assert module.scaling == 4.0


def test_peft_computes_the_logits_that_kohya_computes(tmp_path: Path) -> None:
    tensors = kohya_tensors(alpha=6.0)
    out = converted(saved(tensors, tmp_path), tmp_path / "peft")
    peft = PeftModel.from_pretrained(tiny_model(), str(out)).eval()
    merged = tiny_model()
    for name in LINEAR:
        key = "lora_" + name.replace(".", "_")
        up, down = (tensors[f"{key}.lora_{part}.weight"].double() for part in ("up", "down"))
        layer: Any = merged.get_submodule(name)
        layer.weight.data += (float(tensors[f"{key}.alpha"]) / 4 * (up @ down)).float()
    assert (logits(merged) - logits(tiny_model())).abs().max() > 0.1
    torch.testing.assert_close(logits(peft), logits(merged), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", ["dots", "inner model", "inner model with dots"])
def test_names_with_dots_and_of_the_inner_model_are_resolved(tmp_path: Path, shape: str) -> None:
    tensors = {}
    for name, tensor in kohya_tensors(LINEAR[:4], prefix="").items():
        flat, _, part = name.partition(".")
        dotted = next(known for known in LINEAR if known.replace(".", "_") == flat)
        inner = dotted.removeprefix("model.") if "inner" in shape else dotted
        written = inner if "dots" in shape else f"lora_te_{inner.replace('.', '_')}"
        tensors[f"{written}.{part}"] = tensor
    found = read_kohya_file(saved(tensors, tmp_path), BASE)
    assert {module.name for module in found.modules} == set(LINEAR[:4])


KEY = "lora_" + LINEAR[0].replace(".", "_")
SD = "lora_unet_down_blocks_0_attentions_0_proj_in"
FAULTS: dict[str, tuple[Tensors, str]] = {
    "stable diffusion": (
        {f"{SD}.lora_down.weight": torch.ones(4, 8), f"{SD}.lora_up.weight": torch.ones(8, 4)},
        "LoRA of a diffusion model: it adapts lora_unet_down_blocks",
    ),
    "text encoder": (
        {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(4, 8)},
        "LoRA of a diffusion model",
    ),
    "other base": (
        {"lora_model_layers_9_mlp_down_proj.lora_down.weight": torch.ones(4, 8)},
        "the base has no module lora_model_layers_9_mlp_down_proj",
    ),
    "no up": ({f"{KEY}.lora_down.weight": torch.ones(4, 96)}, r"has no lora_up\.weight"),
    "LoHa": ({f"{KEY}.hada_w1_a": torch.ones(4, 4)}, "contains LoHa, not"),
    "LoKr": ({f"{KEY}.lokr_w1": torch.ones(4, 4)}, "contains LoKr, not"),
    "LoCon": ({f"{KEY}.lora_mid.weight": torch.ones(4, 4)}, "contains a Tucker decomposition"),
    "DoRA": ({f"{KEY}.dora_scale": torch.ones(4, 1)}, "contains LyCORIS's DoRA"),
    "OFT": ({f"{KEY}.oft_blocks": torch.ones(4, 4)}, "contains OFT"),
    "difference": ({f"{KEY}.diff": torch.ones(4, 4)}, "contains whole weight differences"),
    "PEFT": ({"base_model.model.x.lora_A.weight": torch.ones(4, 4)}, "contains PEFT's LoRA"),
    "mlx": ({"model.layers.0.mlp.down_proj.lora_a": torch.ones(4, 4)}, "contains mlx-lm's LoRA"),
    "unknown": ({"x" * 9000: torch.ones(1)}, "is not a name of kohya's format"),
    "nothing": ({}, "contains no factors"),
}
CHANGES: dict[str, tuple[Tensors, str]] = {
    "alpha 0": ({f"{KEY}.alpha": torch.tensor(0.0)}, "other than 0 .*: got 0"),
    "alpha nan": ({f"{KEY}.alpha": torch.tensor(math.nan)}, "got nan"),
    "alpha inf": ({f"{KEY}.alpha": torch.tensor(math.inf)}, "got inf"),
    "two alphas": ({f"{KEY}.alpha": torch.ones(2)}, r"got \(2,\)"),
    "no alpha number": ({f"{KEY}.alpha": torch.ones(0)}, r"got \(0,\)"),
    "rank 0": ({f"{KEY}.lora_down.weight": torch.ones(0, 96)}, "not those of a linear layer"),
    "convolution": ({f"{KEY}.lora_down.weight": torch.ones(4, 96, 3, 3)}, "of a linear layer"),
    "other rank": ({f"{KEY}.lora_down.weight": torch.ones(5, 96)}, "of a linear layer"),
    "other dtype": ({f"{KEY}.lora_down.weight": torch.ones(4, 96).half()}, "of a linear layer"),
    "integers": (
        {f"{KEY}.lora_{part}.weight": torch.ones(4, 4).long() for part in ("down", "up")},
        "of a linear layer",
    ),
    "second name": (
        {
            f"lycoris{KEY[4:]}.{part}": t
            for part, t in (
                ("lora_down.weight", torch.ones(4, 96)),
                ("lora_up.weight", torch.ones(192, 4)),
            )
        },
        "two modules of the file have the name model.layers.0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_files_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    tensors, message = FAULTS[fault]
    with pytest.raises(AdapterError, match=message):
        read_kohya_file(saved(tensors, tmp_path), BASE)


@pytest.mark.parametrize("change", CHANGES)
def test_invalid_factors_are_refused(tmp_path: Path, change: str) -> None:
    tensors, message = CHANGES[change]
    with pytest.raises(AdapterError, match=message):
        read_kohya_file(saved(kohya_tensors(LINEAR[:1]) | tensors, tmp_path), BASE)


def test_factors_of_another_size_are_refused(tmp_path: Path) -> None:
    tensors = kohya_tensors(LINEAR[:1]) | {f"{KEY}.lora_down.weight": torch.ones(4, 95)}
    with pytest.raises(InputError, match="do not fit the base"):
        fit_to_base(read_kohya_file(saved(tensors, tmp_path), BASE), BASE)


def test_a_name_with_two_meanings_is_refused(tmp_path: Path) -> None:
    at = BASE.modules[LINEAR[0]]
    twin = replace(at, name=LINEAR[0].replace("layers.0.", "layers_0."))
    base = replace(BASE, modules={**BASE.modules, twin.name: twin})
    with pytest.raises(AdapterError, match="may be one of several modules"):
        read_kohya_file(saved(kohya_tensors(LINEAR[:1]), tmp_path), base)


def test_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    torch.save(kohya_tensors(LINEAR[:1]), tmp_path / "lora.pt")
    with pytest.raises(AdapterError, match="is a pickle"):
        read_kohya_file(tmp_path / "lora.pt", BASE)
    with pytest.raises(AdapterError, match="No such file"):
        read_kohya_file(tmp_path / "absent.safetensors", BASE)
    with pytest.raises(AdapterError, match="a folder"):
        read_kohya_file(tmp_path, BASE)
