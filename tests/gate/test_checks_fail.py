"""Every check of the math and quality stages fails on its fault, and says what and how.

Faults that an adapter's files can carry are put into files. Faults of the library that serves the
adapter are planted in peft's own methods.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.errors import AdapterError, BaseModelError
from phi3_lora_qa.gate.adapted_layers import lora_layers
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.checks import mathematics, quality
from phi3_lora_qa.record import Outcome
from tests.gate.conftest import MakeBench, fails, holds

pytestmark = pytest.mark.slow


def scale_weights(adapter: Path, factor: float, part: str = "lora_B") -> Path:
    from safetensors.numpy import load_file, save_file

    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    scaled = {n: (t * factor).astype(t.dtype) if part in n else t for n, t in tensors.items()}
    save_file(scaled, weights, metadata={"format": "pt"})
    return adapter


def rewrite(adapter: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    from safetensors.numpy import load_file, save_file

    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    return adapter


def shuffle_rows(tensors: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    for name in [n for n in tensors if "lora_B" in n]:
        tensors[name] = np.ascontiguousarray(random.permutation(tensors[name]))


def swap_layers(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if ".layers.2." in n]:
        other = name.replace(".layers.2.", ".layers.3.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def negate_a_layer(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if ".layers.3." in n and "lora_B" in n]:
        tensors[name] = -tensors[name]


def weaken(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if "lora_B" in n]:
        tensors[name] = tensors[name] / 4  # what lora_alpha / 4 or a lost use_rslora does


@pytest.mark.parametrize("change", [shuffle_rows, swap_layers, negate_a_layer, weaken])
def test_a_spoilt_adapter_fails_the_limits_that_belong_to_the_bundled_suite(
    change: Callable[[dict[str, Any]], object],
    make_bench: MakeBench,
    adapter_copy: Callable[[str], Path],
) -> None:
    bench = make_bench(rewrite(adapter_copy("spoilt"), change), stage=["quality"])
    assert not bench.refusal()
    outcomes = set()
    with bench.run.quietly("quality"):
        for check in quality.checks(bench.target.limits):
            try:
                check.run(bench)
            except CheckFailedError as error:
                outcomes.add(error.outcome)
    assert Outcome.FAILED in outcomes


def test_an_item_that_the_base_cannot_do_either_is_no_fault_of_the_adapter(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    item = {"prompt": "word " * 6000, "reference": "yes"}
    (tmp_path / "long.jsonl").write_text(json.dumps(item))
    bench = make_bench(suite=[tmp_path / "long.jsonl"])
    error = fails(quality.every_item_is_scored, bench)
    assert error.outcome is Outcome.ERROR
    assert "base: " in error.message


def test_a_reference_that_no_model_could_give_is_told_with_its_line(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    rows = [{"prompt": "How large?", "reference": text} for text in ("small", "small<|end|>")]
    (tmp_path / "ended.jsonl").write_text("\n".join(map(json.dumps, rows)))
    error = fails(quality.every_item_is_scored, make_bench(suite=[tmp_path / "ended.jsonl"]))
    assert error.outcome is Outcome.ERROR
    assert "1 of 2 items were not scored" in error.message
    assert "ended.jsonl:2: the reference contains the stop token '<|end|>'" in error.message


def test_a_base_that_cannot_be_loaded_is_tried_once(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import loading

    tried = []

    def refuse(*args: object) -> None:
        tried.append(args)
        raise BaseModelError("no such hub")

    monkeypatch.setattr(loading, "load_base", refuse)
    bench = make_bench()
    for _ in range(2):
        with pytest.raises(BaseModelError, match="no such hub"):
            bench.run.base(bench)
    assert len(tried) == 1


def test_math_holds_on_the_good_adapter(make_bench: MakeBench) -> None:
    bench = make_bench()
    for check in mathematics.checks():
        assert holds(check.run, bench), check.name


def test_a_delta_scaled_twice_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    real = lora_linear.get_delta_weight
    monkeypatch.setattr(lora_linear, "get_delta_weight", lambda s, a: real(s, a) * s.scaling[a])
    error = fails(mathematics.delta_is_scaling_times_b_times_a, make_bench())
    assert "scaling · B·A" in error.message
    assert error.measured["ratio"] > 1


def test_a_delta_of_too_high_rank_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear.get_delta_weight

    def noisy(self: Any, adapter: str) -> Any:
        delta = real(self, adapter)
        noise = torch.randn(delta.shape, generator=torch.Generator().manual_seed(0))
        return delta + 1e-3 * delta.abs().mean() * noise

    monkeypatch.setattr(lora_linear, "get_delta_weight", noisy)
    assert "rank" in fails(mathematics.rank_is_bounded, make_bench()).message


def test_a_scaling_that_does_not_take_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    monkeypatch.setattr(lora_linear, "set_scale", lambda *_: None)
    assert "linear" in fails(mathematics.delta_is_linear_in_alpha, make_bench()).message


def test_a_forward_without_the_update_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        _ = bench.tuned
    monkeypatch.setattr(lora_linear, "forward", lambda s, x, *a, **k: s.base_layer(x))
    assert "output" in fails(mathematics.forward_adds_the_delta, bench).message


def test_an_exploded_update_is_found_and_a_sound_one_is_not(
    make_bench: MakeBench, adapter_copy: Callable[[str], Path]
) -> None:
    bench = make_bench(scale_weights(adapter_copy("exploded"), 1e4))
    error = fails(mathematics.update_norm_ratio, bench)
    assert "times as large" in error.message
    assert "learning rate" in error.fix


def limits_file(folder: Path, *limits: tuple[str, str, str, float]) -> Path:
    path = folder / "limits.toml"
    path.write_text(
        "".join(
            f'[[limit]]\ngroup = "{g}"\nmetric = "{m}"\nrule = "{r}"\nvalue = {v}\n'
            for g, m, r, v in limits
        )
    )
    return path


def test_quality_fails_when_the_sign_of_the_update_is_turned_round(
    make_bench: MakeBench, adapter_copy: Callable[[str], Path]
) -> None:
    bench = make_bench(scale_weights(adapter_copy("negated"), -1.0))
    checks = {check.label: check for check in quality.checks(bench.target.limits)}
    error = fails(checks["loss[target]"].run, bench)
    assert error.outcome is Outcome.FAILED
    assert "wanted" in error.message


def test_too_few_items_are_inconclusive_and_say_how_many_are_needed(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    suite = tmp_path / "few.jsonl"
    rows = [
        {
            "id": f"q{n}",
            "group": "other",
            "messages": [
                {"role": "user", "content": f"What is {n} plus 1?"},
                {"role": "assistant", "content": str(n + 1)},
            ],
        }
        for n in range(5)
    ]
    suite.write_text("\n".join(json.dumps(row) for row in rows))
    bench = make_bench(suite=[suite])
    checks = {check.label: check for check in quality.checks(bench.target.limits)}
    error = fails(checks["exact_match[other]"].run, bench)
    assert error.outcome is Outcome.INCONCLUSIVE
    assert error.measured["items_needed"] > 5


def test_a_limit_that_no_number_of_items_can_show_says_what_to_write_instead(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    limits = limits_file(
        tmp_path,
        ("target", "empty", "at_most", 0.0),
        ("target", "agreement", "improve_by", 0.0),
        ("general", "empty", "no_worse_than", 0.0),
        ("general", "stopped", "at_least", 0.5),
    )
    bench = make_bench(thresholds=limits)
    checks = {check.label: check.run for check in quality.checks(bench.target.limits)}
    error = fails(checks["empty[target]"], bench)
    assert error.outcome is Outcome.INCONCLUSIVE
    assert "no number of items can show this" in error.message
    assert "write at_most 0.01, which about 299 items in the group target can" in error.fix
    assert error.measured["items_needed"] == 0
    # Nothing changed, and a margin of 0 lies just there: an improvement would show it.
    error = fails(checks["empty[general]"], bench)
    assert (error.outcome, error.measured["items_needed"]) == (Outcome.INCONCLUSIVE, 0)
    assert "too near to the limit for any suite" in error.message
    assert "wider margin" in error.fix
    # What can be told from the items is.
    assert fails(checks["agreement[target]"], bench).outcome is Outcome.FAILED
    holds(checks["stopped[general]"], bench)


def test_a_limit_for_a_group_without_items_is_not_run(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    limits = limits_file(tmp_path, ("safety", "loss", "at_most", 1.0))
    bench = make_bench(thresholds=limits)
    checks = quality.checks(bench.target.limits)
    assert checks[-1].label == "loss[safety]"
    assert fails(checks[-1].run, bench).outcome is Outcome.NOT_RUN


def lose(monkeypatch: pytest.MonkeyPatch, items: slice) -> None:
    """Let some items of each batch come out without a loss."""
    from phi3_lora_qa.scoring import batch_engine

    real: Any = vars(batch_engine)["score_references"]

    def broken(*args: Any) -> Any:
        found = real(*args)
        found[items] = [(replace(reading, loss=math.nan), said) for reading, said in found[items]]
        return found

    monkeypatch.setattr(batch_engine, "score_references", broken)


def test_an_item_without_a_loss_fails_and_is_named(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, slice(None))
    error = fails(quality.every_item_is_scored, make_bench())
    assert "were not scored" in error.message


def test_a_limit_on_items_that_were_not_all_scored_is_not_run(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, slice(None, None, 5))
    bench = make_bench()
    outcomes = {
        fails(check.run, bench).outcome for check in quality.checks(bench.target.limits)[1:]
    }
    assert outcomes == {Outcome.NOT_RUN}


def test_what_only_the_base_cannot_do_is_no_fault_of_the_adapter(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        scores = bench.run.base_scores(bench)
        key = next(iter(bench.run._scores))
        bench.run._scores[key] = (replace(scores[0], error="no answer"), *scores[1:])
    assert fails(quality.every_item_is_scored, bench).outcome is Outcome.ERROR


def test_factors_that_peft_does_not_adapt_are_named(make_bench: MakeBench) -> None:
    bench = make_bench()
    stray = dict(bench.factors)
    stray["model.layers.9.mlp.down_proj"] = next(iter(stray.values()))
    bench.__dict__["factors"] = stray
    with bench.run.quietly("math"), pytest.raises(AdapterError, match=r"layers\.9"):
        lora_layers(bench)


def test_without_a_linear_module_the_math_has_not_been_run(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.__dict__["factors"] = {}
    for check in mathematics.checks():
        assert fails(check.run, bench).outcome is Outcome.NOT_RUN, check.name
