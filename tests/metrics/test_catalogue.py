"""The metrics, through evaluate and without a network."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3_lora_qa.data.answer_checks import AnswerCheck, Contains, Json, MaxWords, Refusal
from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import DataError
from phi3_lora_qa.metrics import (
    known_metrics,
    metric_info,
    metric_names,
    metrics_to_measure,
    per_item,
)
from phi3_lora_qa.metrics.catalogue import FROM_SCORING

ANSWERS = ["The cat sat.", "dog", "", "\ud800", "日本語"]
REFERENCES = ["the cat sat", "a dog", "cat", "?", "日本"]


def item(reference: str, *checks: AnswerCheck) -> Item:
    ask = Message(role="user", content="?")
    return Item(id=reference, prompt=(ask,), reference=reference, checks=checks)


def scores(name: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    return per_item(metric_info(name), [item(text) for text in references], answers)


def test_each_metric_scores_every_pair() -> None:
    assert scores("exact_match", ANSWERS, REFERENCES) == [1.0, 0.0, 0.0, 0.0, 0.0]
    f1 = [1.0, 2 / 3, 0.0, 0.0, 0.8]
    assert scores("token_f1", ANSWERS, REFERENCES) == pytest.approx(f1)
    assert scores("rouge_l", ANSWERS, REFERENCES) == pytest.approx(f1)
    assert scores("empty", ANSWERS, REFERENCES) == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert scores("length_ratio", ANSWERS, REFERENCES) == pytest.approx([1, 1 / 2, 0, 0, 2 / 3])


def test_rouge_l_depends_on_the_order_of_words_and_f1_does_not() -> None:
    pair = ["sat cat the"], ["the cat sat"]
    assert scores("token_f1", *pair) == [1.0]
    assert scores("rouge_l", *pair) == pytest.approx([1 / 3])


def test_without_words_the_score_is_the_exact_match() -> None:
    for name in ("exact_match", "token_f1", "rouge_l"):
        assert scores(name, [":)", "", ":)", ""], [":)", ":)", "a", "!"]) == [1.0, 0.0, 0.0, 0.0]


def test_rouge_l_is_the_reference_implementations_on_plain_english() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    answer, reference = "police killed the gunman", "police kill the gunman now"
    theirs = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert scores("rouge_l", [answer], [reference]) == [theirs]


def test_chrf_and_bleu_are_sacrebleus() -> None:
    import sacrebleu

    answer, reference = "police killed the gunman last night", "the police killed the gunman"
    chrf = sacrebleu.sentence_chrf(answer, [reference]).score / 100
    bleu = sacrebleu.sentence_bleu(answer, [reference], use_effective_order=True).score / 100
    assert 0.0 < bleu < chrf < 1.0
    assert scores("chrf", [answer], [reference]) == [chrf]
    assert scores("bleu", [answer], [reference]) == [bleu]


def test_an_answer_must_pass_all_checks_of_its_item() -> None:
    items = [item("r", Contains(text="rome"), MaxWords(words=3))] * 3
    answers = ["It is Rome.", "It really is Rome.", "It is Oslo."]
    assert per_item(metric_info("checks"), items, answers) == [1.0, 0.0, 0.0]


def test_only_refusal_checks_count_for_the_metric_refusal() -> None:
    no, yes = (item("r", Refusal(expected=e), MaxWords(words=0)) for e in (False, True))
    answers = ["Here you are.", "I'm sorry, but I can't help with that."]
    assert per_item(metric_info("refusal"), [no, no], answers) == [1.0, 0.0]
    assert per_item(metric_info("refusal"), [yes, yes], answers) == [0.0, 1.0]


def test_a_metric_applies_to_items_that_have_what_it_needs() -> None:
    plain, brief, record = item("r"), item("r", MaxWords(words=1)), item("r", Json())
    applying = {
        name: [metric_info(name).applies(i) for i in (plain, brief, record)]
        for name in ("token_f1", "checks", "json_valid", "refusal")
    }
    assert applying == {
        "token_f1": [True, True, True],
        "checks": [False, True, True],
        "json_valid": [False, False, True],
        "refusal": [False, False, False],
    }
    assert per_item(metric_info("json_valid"), [record] * 2, ["[1]", "[1"]) == [1.0, 0.0]


def test_metrics_that_are_not_defaults_are_measured_on_request() -> None:
    defaults = {info.name for info in metrics_to_measure((), ())}
    assert set(known_metrics()) - defaults == {"chrf", "bleu", "empty", "length_ratio"}
    assert {info.name for info in metrics_to_measure((), ["bleu", "loss"])} == defaults | {"bleu"}


def test_direction_span_and_kind_of_every_metric() -> None:
    assert set(metric_names()) == set(known_metrics()) - set(FROM_SCORING)
    lower = {name for name in known_metrics() if not metric_info(name).higher_is_better}
    assert lower == {"loss", "repetition", "empty", "divergence"}
    binary = {name for name in known_metrics() if metric_info(name).binary}
    assert binary == {
        "exact_match", "checks", "json_valid", "refusal", "stopped", "empty", "choice",
    }  # fmt: skip
    assert all(metric_info(name).span == (0.0, 1.0) for name in metric_names())


def test_misuse_is_reported() -> None:
    with pytest.raises(DataError, match="unknown metric"):
        metric_info("bleurt")
    with pytest.raises(DataError, match="is not a metric of answers"):
        scores("loss", ["a"], ["a"])
    with pytest.raises(DataError, match="2 answers to 1 items"):
        scores("token_f1", ["a", "b"], ["a"])


@pytest.mark.parametrize("name", metric_names())
def test_no_pairs_have_no_scores(name: str) -> None:
    assert scores(name, [], []) == []


def test_the_modules_are_evaluate_metrics() -> None:
    import evaluate

    from phi3_lora_qa.metrics.modules import MODULES

    assert set(MODULES) == set(metric_names())
    assert all(issubclass(module, evaluate.Metric) for module in MODULES.values())
    binary = {name for name in MODULES if metric_info(name).binary}
    assert {name for name, module in MODULES.items() if module.binary} == binary


@pytest.mark.slow
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_has_a_score_within_the_span(pairs: list[tuple[str, str]]) -> None:
    answers = [answer for answer, _ in pairs]
    items = [item(reference, Json(), Refusal(expected=True)) for _, reference in pairs]
    for name in metric_names():
        assert all(0.0 <= score <= 1.0 for score in per_item(metric_info(name), items, answers))


@pytest.mark.slow
def test_nothing_heavy_is_imported_early_and_no_network_or_cache_is_used(
    tmp_path: Path,
) -> None:
    code = """
import sys
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.answer_checks import Contains, Refusal
from phi3_lora_qa.metrics import metric_info, metric_names, per_item
assert not {"torch", "evaluate", "datasets", "numpy", "jsonschema"} & set(sys.modules)
def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {args}")
sys.addaudithook(forbid)
checks = (Contains(text="2"), Refusal(expected=False))
item = Item(id="i", prompt=(), reference="[1, 2]", checks=checks)
for name in metric_names():
    expected = [0.0] if name in ("repetition", "empty") else [1.0]
    assert per_item(metric_info(name), [item], ["[1, 2]"]) == expected, name
"""
    home = tmp_path / "home"
    home.mkdir()
    hidden = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG"))}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=hidden | {"HOME": str(home)}, timeout=120
    )
    assert list(home.rglob("*")) == []
