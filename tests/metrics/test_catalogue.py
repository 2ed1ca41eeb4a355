"""The metrics, through evaluate and without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3_lora_qa.errors import DataError
from phi3_lora_qa.metrics import known_metrics, metric_info, metric_names, per_item

ANSWERS = ["The cat sat.", "dog", "", "\ud800", "日本語"]
REFERENCES = ["the cat sat", "a dog", "cat", "?", "日本"]


def test_each_metric_scores_every_pair() -> None:
    assert per_item("exact_match", ANSWERS, REFERENCES) == [1.0, 0.0, 0.0, 0.0, 0.0]
    f1 = [1.0, 2 / 3, 0.0, 0.0, 0.8]
    assert per_item("token_f1", ANSWERS, REFERENCES) == pytest.approx(f1)
    assert per_item("rouge_l", ANSWERS, REFERENCES) == pytest.approx(f1)


def test_rouge_l_minds_the_order_of_words_and_f1_does_not() -> None:
    pair = ["sat cat the"], ["the cat sat"]
    assert per_item("token_f1", *pair) == [1.0]
    assert per_item("rouge_l", *pair) == pytest.approx([1 / 3])


def test_rouge_l_is_the_reference_implementations_on_plain_english() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    answer, reference = "police killed the gunman", "police kill the gunman now"
    theirs = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert per_item("rouge_l", [answer], [reference]) == [theirs]


def test_what_a_comparison_must_know_is_known() -> None:
    assert set(metric_names()) == set(known_metrics()) - {"loss"}
    assert not metric_info("loss").higher_is_better
    assert [name for name in known_metrics() if metric_info(name).binary] == ["exact_match"]
    assert all(metric_info(name).span == (0.0, 1.0) for name in metric_names())


def test_misuse_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown metric"):
        per_item("bleurt", ["a"], ["a"])
    with pytest.raises(DataError, match="no metric of answers"):
        per_item("loss", ["a"], ["a"])
    with pytest.raises(DataError, match="2 answers against 1 references"):
        per_item("token_f1", ["a", "b"], ["a"])


@pytest.mark.parametrize("name", metric_names())
def test_no_pairs_have_no_scores(name: str) -> None:
    assert per_item(name, [], []) == []


def test_the_modules_are_evaluates_own_kind() -> None:
    import evaluate

    from phi3_lora_qa.metrics.modules import MODULES

    assert set(MODULES) == set(metric_names())
    assert all(issubclass(module, evaluate.Metric) for module in MODULES.values())


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_text_gets_a_score_within_the_range(pairs: list[tuple[str, str]]) -> None:
    answers, references = [a for a, _ in pairs], [r for _, r in pairs]
    for name in metric_names():
        assert all(0.0 <= score <= 1.0 for score in per_item(name, answers, references))


def test_nothing_heavy_before_the_first_score_and_no_network_or_cache_after_it(
    tmp_path: Path,
) -> None:
    code = """
import sys
from phi3_lora_qa.metrics import metric_names, per_item
assert not {"torch", "evaluate", "datasets", "numpy"} & set(sys.modules)
def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {args}")
sys.addaudithook(forbid)
for name in metric_names():
    assert per_item(name, ["a b"], ["a b"]) == [1.0]
"""
    home = tmp_path / "home"
    home.mkdir()
    hidden = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG"))}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=hidden | {"HOME": str(home)}, timeout=120
    )
    assert list(home.rglob("*")) == []
