"""A gate on a base in 4 bits: quality is about that base, and what it changes is in the record."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa import gate_adapter
from phi3_lora_qa.gate import model_scorer
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import Outcome, RunRecord

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("bitsandbytes") is None, reason='pip install "phi3-lora-qa[qlora]"'
    ),
]


ITEMS = 24


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Some items of the bundled suite: in 8 bits each is scored alone."""
    path = tmp_path / "suite.jsonl"
    lines = (bundled("tiny") / "suite.jsonl").read_text().splitlines()
    path.write_text("\n".join(lines[:ITEMS]))
    return path


def gated(adapter: Path, suite: Path, **settings: Any) -> RunRecord:
    settings["suite"] = [suite]
    return gate_adapter(adapter, base="tiny", device="cpu", cache_scores="off", **settings)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_its_effect_is_measured_on_the_same_items_and_the_other_stages_pass(
    kind: str, good_adapter: Path, suite: Path
) -> None:
    record = gated(good_adapter, suite, quantization=kind)
    notes = record.environment
    assert notes["quantization"] == kind
    assert notes["engine"] == ("plain" if kind == "int8" else "fast")
    assert ("one by one" in str(notes.get("engine_fallback"))) == (kind == "int8")
    assert notes["quantization_items"] == ITEMS
    assert notes["quantization_loss_change"] != 0.0
    assert 0.0 <= float(str(notes["quantization_answers_changed"])) < 0.5
    others = [check for check in record.checks if check.stage != "quality"]
    assert {check.outcome for check in others} == {Outcome.PASSED}
    plain = gated(good_adapter, suite)
    bases = [[m.base for m in one.metrics if m.metric == "loss"] for one in (record, plain)]
    assert bases[0] != bases[1]


def test_a_base_that_does_not_fit_unquantized_is_not_measured(
    good_adapter: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_scorer, "free_bytes", lambda device: 1000)
    record = gated(good_adapter, suite, quantization="nf4", stages=["quality"])
    effect = str(record.environment["quantization_effect"])
    assert effect.startswith("not measured: the base that is not quantized needs ")
    assert "0.0 MB free" in effect
    assert record.metrics
