"""No healthy adapter is refused: every kind of LoRA passes the stages that read its layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.checks import base_integrity, checkpoint, export, mathematics, merged_weights
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import bundled, resolve_base
from tests.gate.builders import MakeSession, attached, fails, passes, run_quietly
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_healthy_adapter_of_each_kind_passes(
    variant: str, tiny: Any, few_items: Path, make_session: MakeSession, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "adapter", **VARIANTS[variant])
    session = make_session(tmp_path / "adapter", suite=[few_items])
    assert not session.adapter.refusal
    for check in (*mathematics.checks(), *checkpoint.checks(), *export.checks()):
        assert passes(check.run, session), check.name


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
def test_a_base_with_tied_tables_is_gated(
    variant: str, tied_base: Path, few_items: Path, make_session: MakeSession, tmp_path: Path
) -> None:
    model = load_base(resolve_base(str(tied_base))).model
    train(model, tmp_path / "adapter", **VARIANTS[variant])
    session = make_session(tmp_path / "adapter", suite=[few_items], base=str(tied_base))
    assert not session.adapter.refusal
    for check in (*checkpoint.checks(), *export.checks()):
        assert passes(check.run, session), check.name


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"]])
def test_a_table_that_peft_scales_twice_is_found(
    targets: list[str],
    tiny: Any,
    make_session: MakeSession,
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
    session = make_session(tmp_path / "adapter")
    assert "scaling · B·A" in fails(mathematics.delta_is_scaling_times_b_times_a, session).message


def test_a_bias_that_peft_ignores_is_found(
    tiny: Any, make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    def forget(self: Any, x: Any) -> Any:
        update = self.lora_A["default"](x) @ self.lora_B["default"].weight.T
        return self.base_layer(x) + update * self.scaling["default"]

    train(tiny, tmp_path / "adapter", lora_bias=True)
    session = make_session(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "forward", forget)
    assert "output is not" in fails(mathematics.forward_adds_the_delta, session).message


def test_a_bias_that_peft_drops_when_merging_is_found(
    tiny: Any, make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    train(tiny, tmp_path / "adapter", lora_bias=True)
    session = make_session(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "merge", lambda self, safe_merge=False: None)
    assert (
        "drops a part of it: lora_bias"
        in fails(merged_weights.merged_matches_unmerged, session).message
    )


def test_another_error_while_merging_is_not_a_refusal(
    tiny: Any, make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    def no_memory(self: Any, safe_merge: bool = False) -> None:
        raise RuntimeError("not enough memory")

    train(tiny, tmp_path / "adapter", lora_bias=True)
    session = make_session(tmp_path / "adapter")
    monkeypatch.setattr(Linear, "merge", no_memory)
    with pytest.raises(RuntimeError, match="not enough memory"):
        run_quietly(merged_weights.merged_matches_unmerged, session)


def test_a_whole_module_does_not_hide_a_base_that_stays_changed(
    tiny: Any, make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny, tmp_path / "adapter", modules_to_save=["norm"])
    session = make_session(tmp_path / "adapter")
    tuner = type(attached(session).attach_adapter().base_model)
    unload = tuner.unload

    def leaves_a_layer(self: Any) -> Any:
        plain = unload(self)
        plain.model.layers[0].mlp.down_proj.weight.data = (
            plain.model.layers[0].mlp.down_proj.weight.data * 1.01
        )
        return plain

    monkeypatch.setattr(tuner, "unload", leaves_a_layer)
    assert (
        "after unloading, logits differ"
        in fails(base_integrity.base_restored_when_unloaded, session).message
    )


def test_a_table_of_another_base_is_refused_by_both_stages(
    tiny: Any, make_session: MakeSession, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    train(tiny, tmp_path / "adapter", target_modules=[*FUSED, "embed_tokens"])
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("base_layer.weight"))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    session = make_session(tmp_path / "adapter")
    assert "base-embedding-copy" in session.adapter.refusal
    with pytest.raises(
        AdapterError, match=r"would replace model\.embed_tokens of the base with another table"
    ):
        session.attach_adapter()
