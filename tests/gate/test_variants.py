"""No healthy adapter is refused: every kind of LoRA passes the stages that look at its layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.checks import checkpoint, export, mathematics
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import bundled, resolve_base
from tests.gate.conftest import MakeBench
from tests.variants import FUSED, VARIANTS, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_base(resolve_base("tiny")).model


@pytest.fixture
def few_items(tmp_path: Path) -> Path:
    lines = (bundled("tiny") / "suite.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:4]))
    return tmp_path / "few.jsonl"


def run(check: Any, bench: Bench) -> str:
    with bench.run.quietly("math"):
        return str(check(bench).message)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_healthy_adapter_of_each_kind_holds(
    variant: str, tiny: Any, few_items: Path, make_bench: MakeBench, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "adapter", **VARIANTS[variant])
    bench = make_bench(tmp_path / "adapter", suite=[few_items])
    assert not bench.refusal()
    for check in (*mathematics.checks(), *checkpoint.checks(), *export.checks()):
        assert run(check.run, bench), check.name


@pytest.fixture(scope="module")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with its embedding table as its head."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("tied") / "base"
    shutil.copytree(bundled("tiny") / "base", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "variant", ["vanilla", "saved_head", "embeddings", "head", "tied", "token_rows_of_both"]
)
def test_a_base_that_ties_its_tables_is_gated_too(
    variant: str, tied_base: Path, few_items: Path, make_bench: MakeBench, tmp_path: Path
) -> None:
    model = load_base(resolve_base(str(tied_base))).model
    train(model, tmp_path / "adapter", **VARIANTS[variant])
    bench = make_bench(tmp_path / "adapter", suite=[few_items], base=str(tied_base))
    assert not bench.refusal()
    for check in (*checkpoint.checks(), *export.checks()):
        assert run(check.run, bench), check.name


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"]])
def test_a_table_that_peft_scales_twice_is_found(
    targets: list[str],
    tiny: Any,
    make_bench: MakeBench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft.tuners.lora.layer import Embedding, Linear

    train(tiny, tmp_path / "adapter", target_modules=targets)
    for kind in (Embedding, Linear):
        real = kind.get_delta_weight
        monkeypatch.setattr(
            kind, "get_delta_weight", lambda s, a, real=real: real(s, a) * s.scaling[a]
        )
    bench = make_bench(tmp_path / "adapter")
    with pytest.raises(CheckFailedError, match="scaling · B·A"):
        run(mathematics.delta_is_scaling_times_b_times_a, bench)


def test_a_bias_that_peft_forgets_is_found(
    tiny: Any, make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    def forget(self: Any, x: Any) -> Any:
        update = self.lora_A["default"](x) @ self.lora_B["default"].weight.T
        return self.base_layer(x) + update * self.scaling["default"]

    train(tiny, tmp_path / "adapter", lora_bias=True)
    bench = make_bench(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "forward", forget)
    with pytest.raises(CheckFailedError, match="output is not"):
        run(mathematics.forward_adds_the_delta, bench)


def test_a_bias_that_peft_drops_when_merging_is_found(
    tiny: Any, make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    train(tiny, tmp_path / "adapter", lora_bias=True)
    bench = make_bench(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "merge", lambda self, safe_merge=False: None)
    with pytest.raises(CheckFailedError, match="drops part of it: lora_bias"):
        run(checkpoint.merged_matches_unmerged, bench)


def test_a_failure_to_merge_for_another_reason_is_no_refusal(
    tiny: Any, make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    def no_memory(self: Any, safe_merge: bool = False) -> None:
        raise RuntimeError("not enough memory")

    train(tiny, tmp_path / "adapter", lora_bias=True)
    bench = make_bench(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "merge", no_memory)
    with pytest.raises(RuntimeError, match="not enough memory"):
        run(checkpoint.merged_matches_unmerged, bench)


def test_a_whole_module_does_not_hide_a_base_that_stays_changed(
    tiny: Any, make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny, tmp_path / "adapter", modules_to_save=["norm"])
    bench = make_bench(tmp_path / "adapter")
    tuner = type(bench.tuned.base_model)
    unload = tuner.unload

    def leaves_a_layer(self: Any) -> Any:
        plain = unload(self)
        plain.model.layers[0].mlp.down_proj.weight.data = (
            plain.model.layers[0].mlp.down_proj.weight.data * 1.01
        )
        return plain

    monkeypatch.setattr(tuner, "unload", leaves_a_layer)
    with pytest.raises(CheckFailedError, match="after unloading, logits differ"):
        run(checkpoint.base_restored_when_unloaded, bench)


def test_a_table_of_another_base_is_refused_by_both_stages(
    tiny: Any, make_bench: MakeBench, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    train(tiny, tmp_path / "adapter", target_modules=[*FUSED, "embed_tokens"])
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("base_layer.weight"))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    bench = make_bench(tmp_path / "adapter")
    assert "base-embedding-copy" in bench.refusal()
    with pytest.raises(
        AdapterError, match=r"replace model\.embed_tokens of the base by another table"
    ):
        _ = bench.tuned
