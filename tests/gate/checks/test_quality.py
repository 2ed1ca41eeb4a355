"""Each check of the quality stage: items that cannot be scored, limits on every kind of metric."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.gate.checks import quality
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import Outcome
from tests.gate.builders import MakeSession, fails, passes, run_quietly, with_rows

OWN = """
from phi3_lora_qa.metrics.modules import AnswerMetric


class Braced(AnswerMetric):
    binary = True

    def score(self, answer: str, reference: str) -> float:
        return float(answer.startswith("{"))
"""
LIMITS = [
    ("target", "json_valid", "improve_by", 0.1),
    ("target", "Braced", "improve_by", 0.5),
    ("target", "checks", "at_least", 0.999),
    ("general", "chrf", "no_worse_than", 0.3),
    ("general", "json_valid", "at_least", 0.5),
]


def write_suite(path: Path) -> None:
    rows = [json.loads(line) for line in (bundled("tiny") / "suite.jsonl").read_text().splitlines()]
    rows = [r for g in ("target", "general") for r in [r for r in rows if r["group"] == g][:32]]
    demands = [{"kind": "json"}, {"kind": "contains", "text": ":"}]
    for row in rows:
        if row["group"] == "target":
            row["checks"] = demands
    path.write_text("\n".join(map(json.dumps, rows)))


def test_a_limit_passes_fails_or_is_not_measured_whatever_the_metric(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_suite(tmp_path / "suite.jsonl")
    (tmp_path / "braced.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    tables = [
        f"[[limit]]\ngroup = '{g}'\nmetric = '{m}'\nrule = '{r}'\nvalue = {v}\n"
        for g, m, r, v in LIMITS
    ]
    (tmp_path / "limits.toml").write_text("".join(tables))
    session = make_session(
        suite=["suite.jsonl"], metric=["braced:Braced"], thresholds="limits.toml", stage=["quality"]
    )
    checks = {(c.parameter, c.name): c.run for c in quality.checks(session.job.limits)}
    assert "tuned 1" in passes(checks["target", "json_valid"], session)
    assert "base 0, tuned 1" in passes(checks["target", "Braced"], session)
    assert "chrf on general" in passes(checks["general", "chrf"], session)
    # 32 answers, all of them right, do not show that 999 in 1,000 are.
    undecided = fails(checks["target", "checks"], session)
    assert undecided.outcome is Outcome.INCONCLUSIVE
    # The interval is next to the figure that it bounds.
    (metric,) = (
        m
        for m in session.comparison.compute_metrics()
        if m.limit and (m.metric, m.limit.rule) == ("checks", "at_least")
    )
    assert f"tuned 1 [{metric.low:.4g}, 1] over" in undecided.message
    (shown,) = re.findall(
        r"difference \+1 \[\+(\S+), ", passes(checks["target", "Braced"], session)
    )
    assert 0.5 < float(shown) < 1
    missing = fails(checks["general", "json_valid"], session)
    assert missing.outcome is Outcome.NOT_RUN
    assert "json_valid was not measured on every item of general" in missing.message


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
    make_session: MakeSession,
    adapter_copy: Callable[[str], Path],
) -> None:
    session = make_session(rewrite(adapter_copy("spoilt"), change), stage=["quality"])
    assert not session.adapter.refusal
    outcomes = {
        run_quietly(check.run, session).outcome for check in quality.checks(session.job.limits)
    }
    assert Outcome.FAILED in outcomes


def test_an_item_that_fails_with_the_base_too_is_not_a_fault_of_the_adapter(
    make_session: MakeSession, tmp_path: Path
) -> None:
    item = {"prompt": "word " * 6000, "reference": "yes"}
    (tmp_path / "long.jsonl").write_text(json.dumps(item))
    session = make_session(suite=[tmp_path / "long.jsonl"])
    outcome = fails(quality.every_item_is_scored, session)
    assert outcome.outcome is Outcome.ERROR
    assert "base: " in outcome.message


def test_a_reference_that_no_model_can_give_is_reported_with_its_line(
    make_session: MakeSession, tmp_path: Path
) -> None:
    rows = [{"prompt": "How large?", "reference": text} for text in ("small", "small<|end|>")]
    (tmp_path / "ended.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome = fails(quality.every_item_is_scored, make_session(suite=[tmp_path / "ended.jsonl"]))
    assert outcome.outcome is Outcome.ERROR
    assert "1 of 2 items were not scored" in outcome.message
    assert "ended.jsonl:2: the reference contains the stop token '<|end|>'" in outcome.message


def limits_file(folder: Path, *limits: tuple[str, str, str, float]) -> Path:
    path = folder / "limits.toml"
    path.write_text(
        "".join(
            f'[[limit]]\ngroup = "{g}"\nmetric = "{m}"\nrule = "{r}"\nvalue = {v}\n'
            for g, m, r, v in limits
        )
    )
    return path


def test_quality_fails_when_the_sign_of_the_update_is_inverted(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    session = make_session(scale_weights(adapter_copy("negated"), -1.0))
    checks = {check.label: check for check in quality.checks(session.job.limits)}
    outcome = fails(checks["loss[target]"].run, session)
    assert outcome.outcome is Outcome.FAILED
    assert "limit: loss" in outcome.message


def test_too_few_items_are_inconclusive_and_say_how_many_are_needed(
    make_session: MakeSession, tmp_path: Path
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
    session = make_session(suite=[suite])
    checks = {check.label: check for check in quality.checks(session.job.limits)}
    outcome = fails(checks["exact_match[other]"].run, session)
    assert outcome.outcome is Outcome.INCONCLUSIVE
    assert outcome.measured["items_needed"] > 5


def test_a_limit_that_no_number_of_items_can_show_says_what_to_write_instead(
    make_session: MakeSession, tmp_path: Path
) -> None:
    limits = limits_file(
        tmp_path,
        ("target", "empty", "at_most", 0.0),
        ("target", "agreement", "improve_by", 0.0),
        ("general", "empty", "no_worse_than", 0.0),
        ("general", "stopped", "at_least", 0.5),
    )
    session = make_session(thresholds=limits)
    checks = {check.label: check.run for check in quality.checks(session.job.limits)}
    outcome = fails(checks["empty[target]"], session)
    assert outcome.outcome is Outcome.INCONCLUSIVE
    assert "no number of items can show this" in outcome.message
    assert "use at_most = 0.01, which about 299 items in the group target can" in outcome.fix
    assert outcome.measured["items_needed"] == 0
    # Nothing changed, and a margin of 0 is just there: an improvement would show it.
    outcome = fails(checks["empty[general]"], session)
    assert (outcome.outcome, outcome.measured["items_needed"]) == (Outcome.INCONCLUSIVE, 0)
    assert "too close to the limit for any suite" in outcome.message
    assert "wider margin" in outcome.fix
    # Limits that the items can decide are decided.
    assert fails(checks["agreement[target]"], session).outcome is Outcome.FAILED
    passes(checks["stopped[general]"], session)


def test_a_limit_for_a_group_without_items_is_not_run(
    make_session: MakeSession, tmp_path: Path
) -> None:
    limits = limits_file(tmp_path, ("safety", "loss", "at_most", 1.0))
    session = make_session(thresholds=limits)
    checks = quality.checks(session.job.limits)
    assert checks[-1].label == "loss[safety]"
    assert fails(checks[-1].run, session).outcome is Outcome.NOT_RUN


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
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, slice(None))
    outcome = fails(quality.every_item_is_scored, make_session())
    assert "were not scored" in outcome.message


def test_a_limit_on_items_that_were_not_all_scored_is_not_run(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, slice(None, None, 5))
    session = make_session()
    outcomes = {
        fails(check.run, session).outcome for check in quality.checks(session.job.limits)[1:]
    }
    assert outcomes == {Outcome.NOT_RUN}


def test_an_item_that_fails_with_the_base_only_is_not_a_fault_of_the_adapter(
    make_session: MakeSession,
) -> None:
    session = make_session()
    with quiet():
        first, *rest = session.comparison.compare_items()
    session = with_rows(session, [replace(first, base_error="no answer"), *rest])
    assert fails(quality.every_item_is_scored, session).outcome is Outcome.ERROR
