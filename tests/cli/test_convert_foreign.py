import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.models.registry import bundled
from tests.conversion.foreign import (
    BASE,
    LINEAR,
    SPLIT,
    assert_same_deltas,
    expected_deltas,
    factors,
    kohya_tensors,
    mlx_folder,
    mlx_tensors,
    written_deltas,
)
from tests.split_twin import ALL_PARTS, IDS, logits, split_adapter, split_twin, tiny_model

Convert = Callable[..., tuple[int, str, str]]
MICROSOFT = "microsoft/Phi-3-mini-4k-instruct"

VARIANTS: Mapping[str, dict[str, Any]] = {
    "all seven targets": {},
    "only q, k, v": {"targets": ["q_proj", "k_proj", "v_proj"]},
    "only q, v": {"targets": ["q_proj", "v_proj"]},
    "q and o": {"targets": ["q_proj", "o_proj"]},
    "up and down": {"targets": ["up_proj", "down_proj"]},
    "a rank of its own for q": {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"q_proj": 12}},
    "rank 1": {"r": 1, "lora_alpha": 2},
    "rank 3, alpha 5": {"r": 3, "lora_alpha": 5},
    "rank-stabilised": {"use_rslora": True},
}


def config_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def change_config(folder: Path, **changes: Any) -> None:
    text = json.dumps(config_of(folder) | changes)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


@pytest.fixture
def unnamed_base(tmp_path: Path) -> Path:
    """The tiny base in a folder, so that it has no public name."""
    return Path(shutil.copytree(bundled("tiny/base"), tmp_path / "base"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fused_adapter_answers_as_the_split_one_and_has_no_finding(
    convert: Convert, tmp_path: Path, unnamed_base: Path, variant: str
) -> None:
    split = split_adapter(tmp_path / "split", **VARIANTS[variant])
    code, _, err = convert("fuse", "split", "--base", unnamed_base, "-o", "fused")
    assert (code, err) == (0, "")
    config = config_of(tmp_path / "fused")
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert config["base_model_name_or_path"] is None
    for base in (BASE, BaseFiles.open(unnamed_base)):
        assert lint(AdapterFolder.open(tmp_path / "fused"), base).findings == ()
    fused = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "fused")).eval()
    with split.disable_adapter():
        plain = logits(split)
    expected = logits(split)
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(fused), expected, rtol=1e-3, atol=1e-3)


def test_the_command_that_is_shown_names_the_base_if_the_config_does_not(
    convert: Convert, tmp_path: Path, unnamed_base: Path
) -> None:
    split_adapter(tmp_path / "split", ["q_proj", "v_proj"])
    out = convert("fuse", "split", "--base", unnamed_base, "-o", "a")[1]
    shown = f"to gate it: pytest --phi3-adapter=a --phi3-base={unnamed_base}"
    assert out.splitlines()[-1] == shown
    out = convert("fuse", "split", "--base", "tiny", "-o", "b")[1]
    assert out.splitlines()[-1] == "to gate it: pytest --phi3-adapter=b"


@pytest.mark.parametrize(
    ("named", "written"),
    [
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", MICROSOFT),
        ("someone/phi-3", "someone/phi-3"),
        ("/home/someone/base", None),
        (None, None),
    ],
)
def test_the_bases_name_is_public_or_absent(
    convert: Convert, tmp_path: Path, unnamed_base: Path, named: str | None, written: str | None
) -> None:
    split_adapter(tmp_path / "split", ["q_proj", "v_proj"])
    change_config(tmp_path / "split", base_model_name_or_path=named)
    assert convert("fuse", "split", "--base", unnamed_base, "-o", "fused")[0] == 0
    assert config_of(tmp_path / "fused")["base_model_name_or_path"] == written
    report = lint(AdapterFolder.open(tmp_path / "fused"), BaseFiles.open(unnamed_base))
    assert report.findings == ()


def test_a_fused_adapter_keeps_what_ships_with_it(
    convert: Convert, tmp_path: Path, good_adapter: Path
) -> None:
    split_adapter(tmp_path / "split")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(good_adapter / name, tmp_path / "split" / name)
    assert convert("fuse", "split", "--base", "tiny", "-o", "fused")[0] == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "fused" / name).read_bytes() == (good_adapter / name).read_bytes()


def test_dora_is_refused_by_name(convert: Convert, tmp_path: Path) -> None:
    split_adapter(tmp_path / "split", use_dora=True)
    code, _, err = convert("fuse", "split", "--base", "tiny", "-o", "fused")
    assert code == 2
    assert "it sets use_dora" in err


@pytest.mark.parametrize("names", [LINEAR, SPLIT], ids=["fused", "split"])
@pytest.mark.parametrize("source", ["mlx", "kohya", "torchtune"])
def test_a_converted_adapter_has_the_same_deltas_and_no_finding(
    convert: Convert, tmp_path: Path, unnamed_base: Path, source: str, names: tuple[str, ...]
) -> None:
    options: tuple[str, ...] = ()
    if source == "mlx":
        config = {"model": "mlx-community/Phi-3-mini-4k-instruct-4bit"}
        mlx_folder(tmp_path / "in", mlx_tensors(names), {"rank": 4, "scale": 1.5}, **config)
    elif source == "kohya":
        save_file(kohya_tensors(names, 6.0), tmp_path / "in")
    else:
        names, options = SPLIT, ("--alpha", "6", "--allow-pickle")
        torch.save(torchtune_tensors(), tmp_path / "in")
    command = (f"{source}-to-peft", "in", "--base", unnamed_base, "-o", "out", *options)
    code, out, err = convert(*command)
    assert (code, err) == (0, "")
    assert out.startswith("wrote adapter out, ")
    written = written_deltas(tmp_path / "out")
    assert_same_deltas(written, expected_deltas(dict.fromkeys(names, (4, 1.5)), names))
    base = config_of(tmp_path / "out")["base_model_name_or_path"]
    assert base == (MICROSOFT if source == "mlx" else None)
    report = lint(AdapterFolder.open(tmp_path / "out"), BaseFiles.open(unnamed_base))
    assert report.findings == ()


def torchtune_tensors() -> dict[str, torch.Tensor]:
    inner = {"self_attn": "attn", "gate_proj": "w1", "up_proj": "w3"}
    found: dict[str, torch.Tensor] = {}
    for name in SPLIT:
        key = name.removeprefix("model.")
        for part, written in inner.items():
            key = key.replace(part, written)
        a, b = factors(name)
        found |= {f"{key}.lora_a.weight": a, f"{key}.lora_b.weight": b}
    return found


@pytest.mark.parametrize("source", ["mlx", "kohya"])
def test_names_of_a_split_base_stay_split(convert: Convert, tmp_path: Path, source: str) -> None:
    split_twin().save_pretrained(str(tmp_path / "llama"))
    mlx_folder(tmp_path / "mlx", mlx_tensors(SPLIT), {"rank": 4, "scale": 1.5})
    save_file(kohya_tensors(SPLIT, 6.0), tmp_path / "kohya")
    assert convert(f"{source}-to-peft", source, "--base", "llama", "-o", "out")[0] == 0
    assert set(written_deltas(tmp_path / "out")) == set(SPLIT)
    base = BaseFiles.open(tmp_path / "llama")
    assert lint(AdapterFolder.open(tmp_path / "out"), base).findings == ()
    code, _, err = convert("fuse", "out", "--base", "llama", "-o", "fused")
    assert code == 2
    assert "this base has no fused projections; use the adapter unchanged" in err


def test_a_plain_peft_twin_gives_the_same_logits(convert: Convert, tmp_path: Path) -> None:
    mlx_folder(tmp_path / "mlx", mlx_tensors(SPLIT), {"rank": 4, "scale": 2.0})
    assert convert("mlx-to-peft", "mlx", "--base", "tiny", "-o", "out")[0] == 0
    twin = split_adapter(
        tmp_path / "twin", [p for p in ALL_PARTS if p not in {"o_proj", "down_proj"}]
    )
    weights = {}
    for name in SPLIT:
        prefix = f"base_model.model.{name}"
        weights[f"{prefix}.lora_A.weight"], weights[f"{prefix}.lora_B.weight"] = factors(name)
    path = tmp_path / "twin" / "adapter_model.safetensors"
    assert weights.keys() == load_file(path).keys()
    save_file(weights, path)
    plain = PeftModel.from_pretrained(twin.unload(), str(tmp_path / "twin")).eval()
    found = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "out")).eval()
    assert logits(found).shape[1] == IDS.shape[1]
    torch.testing.assert_close(logits(found), logits(plain), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["mlx-to-peft", "GOOD"], "is PEFT's, not mlx-lm's: it has a peft_type"),
        (["mlx-to-peft", "absent"], "absent: no such folder"),
        (["mlx-to-peft", "kohya.safetensors"], "is not a folder"),
        (["mlx-to-peft", "mlx", "--scale", "nan"], "--scale must be a finite number"),
        (["kohya-to-peft", "absent"], "cannot read absent: No such file"),
        (["kohya-to-peft", "mlx"], "cannot read mlx: not a regular file"),
        (["kohya-to-peft", "mlx/adapters.safetensors"], "contains mlx-lm's LoRA"),
        (["kohya-to-peft", "mlx/adapter_config.json"], "adapter_config.json"),
        (["torchtune-to-peft", "tune.pt", "--alpha", "8"], "pass --allow-pickle"),
        (["torchtune-to-peft", "kohya.safetensors", "--alpha", "8"], "is an unknown name"),
    ],
)
def test_bad_input_is_one_line_exit_status_2_and_leaves_nothing(
    convert: Convert, tmp_path: Path, good_adapter: Path, command: list[str], message: str
) -> None:
    mlx_folder(tmp_path / "mlx")
    save_file(kohya_tensors(), tmp_path / "kohya.safetensors")
    torch.save(torchtune_tensors(), tmp_path / "tune.pt")
    before = sorted(tmp_path.iterdir())
    filled = [str(good_adapter) if word == "GOOD" else word for word in command]
    code, out, err = convert(*filled, "--base", "tiny", "-o", "out")
    assert (code, out) == (2, "")
    assert err.startswith("phi3-lora-qa: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["mlx-to-peft", "kohya-to-peft"])
def test_an_existing_output_is_replaced_only_with_force(
    convert: Convert, tmp_path: Path, kind: str
) -> None:
    mlx_folder(tmp_path / "mlx")
    save_file(kohya_tensors(), tmp_path / "kohya")
    command = (kind, kind.partition("-")[0], "--base", "tiny", "-o", "out")
    assert convert(*command)[0] == 0
    assert convert(*command)[0] == 2
    assert convert(*command, "--force")[0] == 0
