"""The gate on a GPU: the verdict of the CPU, its speed next to plain transformers, its memory."""

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3_lora_qa import gate_adapter
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.errors import BaseModelError, MachineError
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import bundled, resolve_base
from phi3_lora_qa.record import Outcome, RunRecord
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.device_memory import free_on
from phi3_lora_qa.scoring.engine_choice import EngineChoice, choose_engine

pytestmark = pytest.mark.cuda

GPU = "cuda:0"
LOSS = 1e-3
"""Nats per token by which float32 on a GPU may differ from a CPU: sums in another order."""


def gated(adapter: Path, device: str, **settings: Any) -> RunRecord:
    """Gate the bundled adapter in full, without cached scores and early stopping."""
    options = {"cache_scores": "off", "early_stop": "off", "order": 1, **settings}
    return gate_adapter(adapter, base="tiny", device=device, **options)


def losses(record: RunRecord) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the mean losses of base and tuned model."""
    return {(m.group, m.metric): (m.base, m.tuned) for m in record.metrics if m.metric == "loss"}


@pytest.fixture(scope="module")
def suite() -> tuple[Item, ...]:
    """The items of the bundled suite."""
    return read_suite([bundled("tiny") / "suite.jsonl"])


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    """The base on the GPU: smollm2 if it is on this machine, as tiny says little about speed."""
    try:
        ref = resolve_base("smollm2")
    except BaseModelError:
        ref = resolve_base("tiny")
    with quiet():
        return load_base(ref, "bfloat16", GPU)


def test_in_float32_every_check_has_the_outcome_of_the_cpu(good_adapter: Path) -> None:
    on_cpu = gated(good_adapter, "cpu", dtype="float32")
    on_gpu = gated(good_adapter, "cuda", dtype="float32")
    assert on_gpu.environment["device"] == GPU
    assert on_gpu.environment["device_name"]
    assert on_gpu.verdict == on_cpu.verdict
    outcomes = [{check.id: check.outcome for check in record.checks} for record in (on_cpu, on_gpu)]
    assert outcomes[0] == outcomes[1]
    for name, values in losses(on_gpu).items():
        assert values == pytest.approx(losses(on_cpu)[name], abs=LOSS)


def test_in_the_default_dtype_the_verdict_is_that_of_the_cpu(good_adapter: Path) -> None:
    on_cpu, on_gpu = gated(good_adapter, "cpu"), gated(good_adapter, "auto")
    assert on_gpu.settings["device"].value == "cuda"
    assert on_gpu.environment["dtype"] in ("bfloat16", "float16")
    assert on_gpu.environment["dtype_source"] == "the default on cuda"
    assert not any(name.startswith("products_") for name in on_gpu.environment)
    assert on_gpu.verdict == on_cpu.verdict


def test_a_baseline_of_the_cpu_is_refused(good_adapter: Path, tmp_path: Path) -> None:
    gated(good_adapter, "cpu", dtype="float32", report=tmp_path / "cpu")
    with pytest.raises(ValueError, match="scored with a different device: cpu"):
        gated(good_adapter, "cuda", dtype="float32", baseline=tmp_path / "cpu")


def test_speed_and_peak_memory_next_to_plain_transformers(
    base: LoadedBase, suite: Sequence[Item], capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_engine("fast", base.model) == EngineChoice(name="fast")
    found: dict[str, tuple[float, int, tuple[ItemScore, ...]]] = {}
    for engine in ("plain", "fast"):
        options = ScoringOptions(engine=engine, max_new_tokens=64)
        with quiet():
            score_items(base.model, base.tokenizer, suite[:4], options)  # warms up
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            scores = score_items(base.model, base.tokenizer, suite[:100], options)
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        found[engine] = (seconds, torch.cuda.max_memory_allocated(), scores)
    with capsys.disabled():
        for engine, (seconds, peak, scores) in found.items():
            tokens = sum(
                score.tokens + len(score.output.answer) for score in scores if score.output
            )
            print(
                f"\n{torch.cuda.get_device_name()}, {base.ref.name} in bfloat16, {engine}: "
                f"{tokens / seconds:,.0f} tokens/s of references and answers, {seconds:.1f} s, "
                f"peak {peak / 2**20:,.0f} MiB"
            )
    assert not any(score.error for score in found["fast"][2])
    pairs = list(zip(found["fast"][2], found["plain"][2], strict=True))
    difference = sum(one.loss - other.loss for one, other in pairs) / len(pairs)
    assert abs(difference) < 0.01


def test_a_batch_that_does_not_fit_is_halved_and_nothing_changes(
    base: LoadedBase, suite: Sequence[Item]
) -> None:
    options = ScoringOptions(max_new_tokens=32)
    with quiet():
        expected = score_items(base.model, base.tokenizer, suite[:64], options)
        free = free_on(torch.device(GPU))
        assert free is not None
        total = torch.cuda.get_device_properties(GPU).total_memory
        weights = torch.cuda.memory_allocated()
        torch.cuda.set_per_process_memory_fraction((weights + (48 << 20)) / total)
        try:
            large = replace(options, token_budget=1_000_000)
            found = score_items(base.model, base.tokenizer, suite[:64], large)
        except MachineError as error:
            pytest.fail(f"one item needs more than this test leaves: {error}")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert not any(score.error for score in found)
    assert [score.loss for score in found] == pytest.approx(
        [score.loss for score in expected], abs=0.05
    )


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason='pip install "phi3-lora-qa[qlora]"')
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_is_scored_and_its_effect_measured(kind: str, good_adapter: Path) -> None:
    record = gated(good_adapter, "cuda", quantization=kind)
    assert record.environment["quantization_items"]
    others = [check for check in record.checks if check.stage != "quality"]
    assert {check.outcome for check in others} == {Outcome.PASSED}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_a_base_on_two_gpus_has_the_scores_of_one(suite: Sequence[Item]) -> None:
    from phi3_lora_qa.models import placement

    one = load_base(resolve_base("tiny"), "float32", GPU)
    expected = score_items(one.model, one.tokenizer, suite[:20], ScoringOptions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "distributed", lambda free, weights: {"device_map": "balanced"})
        both = load_base(resolve_base("tiny"), "float32", "cuda")
    found = score_items(both.model, both.tokenizer, suite[:20], ScoringOptions())
    assert [score.answer for score in found] == [score.answer for score in expected]
