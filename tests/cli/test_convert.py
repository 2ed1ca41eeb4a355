import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3_lora_qa.loralib_interop import LoralibConfig, adapt, lora_state_dict, save_model
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base

MASKS = {"qkv_proj": {"q": True, "k": False, "v": True}}
TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model's state: with and without description, and from torch.save."""
    folder = tmp_path_factory.mktemp("source")
    model = load_base(resolve_base("tiny")).model
    adapt(model, LoralibConfig(rank=3, alpha=8, targets=TARGETS, masks=MASKS))
    generator = torch.Generator().manual_seed(3)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data = torch.randn(parameter.shape, generator=generator) / 100
    save_model(folder / "lora.safetensors", model)
    state = {name: tensor.contiguous() for name, tensor in lora_state_dict(model).items()}
    save_file(state, folder / "bare.safetensors")
    torch.save(state, folder / "lora.pt")
    return folder


@pytest.fixture
def run(convert: Run) -> Run:
    return convert


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "adapter_model.safetensors")


def test_a_described_checkpoint_converts_to_an_adapter_and_back_exactly(
    run: Run, source: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "loralib-to-peft", source / "lora.safetensors", "-o", "adapter", "--base", "tiny"
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "wrote adapter adapter, 16 modules",
        "to gate it: pytest --phi3-adapter=adapter",
    ]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["rank_pattern"], config["alpha_pattern"]) == (
        {"qkv_proj": 9, "gate_up_proj": 6},
        {"qkv_proj": 24, "gate_up_proj": 16},
    )
    assert config["base_model_name_or_path"] == "tiny"
    masks = ("--mask", "qkv_proj=q,v", "--mask", "gate_up_proj=1,1")
    code, out, _ = run(
        "peft-to-loralib", "adapter", "-o", "l.safetensors", "--base", "tiny", *masks
    )
    assert (code, out) == (0, "wrote checkpoint l.safetensors and its description l.json\n")
    for name, tensor in load_file(source / "lora.safetensors").items():
        assert torch.equal(load_file(tmp_path / "l.safetensors")[name], tensor)
    assert layers(tmp_path / "l.json") == layers(source / "lora.json")


def layers(path: Path) -> list[Any]:
    found: list[Any] = json.loads(path.read_text(encoding="utf-8"))["layers"]
    return sorted(found, key=lambda layer: layer["name"])


@pytest.mark.parametrize(
    "given",
    [
        ["bare.safetensors", "--mask", "qkv_proj=q,v"],
        ["bare.safetensors", "--mask", "qkv_proj=1,1,0,1"],
        ["lora.pt", "--mask", "qkv_proj=q,v", "--allow-pickle"],
    ],
)
def test_options_supply_what_a_bare_checkpoint_lacks(
    run: Run, source: Path, tmp_path: Path, given: list[str]
) -> None:
    assert run("loralib-to-peft", source / "lora.safetensors", "-o", "a", "--base", "tiny")[0] == 0
    bare = source / given[0]
    if given[0] == "lora.pt":  # a copy: the description beside lora.safetensors would be its own
        bare = tmp_path / "lora.pt"
        bare.write_bytes((source / "lora.pt").read_bytes())
    options = ("-o", "b", "--base", "tiny", "--alpha", "8", *given[1:])
    assert run("loralib-to-peft", bare, *options)[0] == 0
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    configs = {(tmp_path / n / "adapter_config.json").read_bytes() for n in ("a", "b")}
    assert len(configs) == 1


@pytest.fixture
def split(adapter_copy: Callable[[str], Path]) -> Path:
    """An adapter with separate factors for q, k, v, gate and up, as for a Llama."""
    folder = adapter_copy("split")
    path = folder / "adapter_model.safetensors"
    parts = {"qkv_proj": {"q_proj": 96, "k_proj": 48, "v_proj": 48}}
    parts["gate_up_proj"] = {"gate_proj": 256, "up_proj": 256}
    tensors = load_file(path)
    for name in list(tensors):
        for fused, rows in parts.items():
            if f".{fused}." in name:
                whole = tensors.pop(name)
                pieces = whole.split(list(rows.values())) if "lora_B" in name else [whole] * 5
                for leaf, piece in zip(rows, pieces, strict=False):
                    tensors[name.replace(fused, leaf)] = piece.clone()
    save_file(tensors, path)
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    names = [leaf for rows in parts.values() for leaf in rows]
    content["target_modules"] = [*names, "o_proj", "down_proj"]
    config.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_split_adapter_is_fused_to_the_one_it_was_split_from(
    run: Run, split: Path, good_adapter: Path, tmp_path: Path
) -> None:
    code, out, err = run("fuse", split, "--base", "tiny", "-o", "fused")
    assert (code, err) == (0, "")
    assert out.startswith("wrote adapter fused, 16 modules\n")
    fused, whole = weights(tmp_path / "fused"), weights(good_adapter)
    assert fused.keys() == whole.keys()
    assert all(torch.equal(fused[name], whole[name]) for name in whole)
    assert (tmp_path / "fused" / "tokenizer.json").is_file()


def test_the_gates_static_stage_accepts_a_converted_and_a_fused_adapter(
    run: Run, source: Path, split: Path, tmp_path: Path
) -> None:
    run("loralib-to-peft", source / "lora.safetensors", "-o", "a", "--base", "tiny")
    run("fuse", split, "--base", "tiny", "-o", "b")
    for name in ("a", "b"):
        command = [sys.executable, "-m", "phi3_lora_qa", "lint", str(tmp_path / name)]
        done = subprocess.run(
            [*command, "--base", "tiny"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["loralib-to-peft", "peft-to-loralib", "fuse"])
def test_nothing_is_overwritten_without_force(
    run: Run, source: Path, split: Path, good_adapter: Path, tmp_path: Path, kind: str
) -> None:
    arguments: dict[str, tuple[str | Path, ...]] = {
        "loralib-to-peft": (source / "lora.safetensors", "-o", "out", "--base", "tiny"),
        "peft-to-loralib": (good_adapter, "-o", "out.safetensors"),
        "fuse": (split, "-o", "out", "--base", "tiny"),
    }
    assert run(kind, *arguments[kind])[0] == 0
    before = contents(tmp_path)
    code, _, err = run(kind, *arguments[kind])
    assert code == 2
    assert re.search(r"already (exists|contains files); choose another \w+, or pass --force$", err)
    assert contents(tmp_path) == before
    assert run(kind, *arguments[kind], "--force")[0] == 0
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loralib-to-peft", "SOURCE/lora.safetensors", "--base", "phi9"], "neither a known name"),
        (["loralib-to-peft", "absent.pt", "--base", "tiny"], "cannot read absent.pt: No such file"),
        (["loralib-to-peft", "SOURCE/lora.pt", "--base", "tiny"], "pass --allow-pickle"),
        (["loralib-to-peft", "SOURCE/bare.safetensors", "--base", "tiny"], "pass the --alpha"),
        (
            ["loralib-to-peft", "SOURCE/bare.safetensors", "--base", "tiny", "--alpha", "8"],
            "pass --mask qkv_proj=NAMES",
        ),
        (
            ["loralib-to-peft", "SOURCE/lora.safetensors", "--base", "tiny", "--alpha", "8"],
            "remove --alpha and --mask",
        ),
        (["peft-to-loralib", "GOOD", "--mask", "qkv_proj=q,v"], "pass --base with its Phi-3"),
        (["peft-to-loralib", "GOOD", "--mask", "qkv_proj"], "pass one LAYER=BLOCKS"),
        (
            ["peft-to-loralib", "GOOD", "--mask", "qkv_proj=q,x", "--base", "tiny"],
            "unknown block in the mask: 'x'; use q, k, v",
        ),
        (
            ["peft-to-loralib", "GOOD", "--mask", "qkv_proj=q,k,v", "--base", "tiny"],
            "B is not zero outside the enabled blocks",
        ),
        (["peft-to-loralib", "GOOD", "-o", "out.pt"], "must end in .safetensors"),
        (["peft-to-loralib", "absent"], "absent: no such folder"),
        (["fuse", "GOOD", "--base", "tiny"], "there is nothing to fuse"),
    ],
)
def test_bad_input_is_one_line_exit_status_2_and_leaves_nothing(
    run: Run, source: Path, good_adapter: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"SOURCE": str(source), "GOOD": str(good_adapter)}
    filled = [next((a.replace(k, v) for k, v in places.items() if k in a), a) for a in arguments]
    if "-o" not in filled:
        filled += ["-o", "out.safetensors"]
    code, out, err = run(*filled)
    assert (code, out) == (2, "")
    assert err.startswith("phi3-lora-qa: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_factors_for_another_base_are_refused(run: Run, source: Path, tmp_path: Path) -> None:
    state = load_file(source / "bare.safetensors")
    (tmp_path / "in").mkdir()
    name = "model.layers.0.mlp.down_proj"
    bad = {n: t[:, :100].contiguous() for n, t in state.items() if n == f"{name}.lora_A"}
    save_file({**bad, f"{name}.lora_B": state[f"{name}.lora_B"]}, tmp_path / "in" / "x.safetensors")
    options = ("-o", "out", "--base", "tiny", "--alpha", "8")
    code, _, err = run("loralib-to-peft", "in/x.safetensors", *options)
    assert code == 2
    assert "pass the base that it was trained on" in err


def test_the_commands_do_not_import_torch_at_start_up() -> None:
    code = "import sys, phi3_lora_qa.cli.convert, phi3_lora_qa.loralib_interop\n"
    code += "print([m for m in ('torch', 'peft', 'loralib', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "peft" not in done.stdout
