"""The metrics as evaluate modules, as a user's own metric derives from them."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.metrics.modules import (
    MODULES,
    AnswerMetric,
    Checks,
    RefusalAsExpected,
    compute,
    in_memory,
    score_pairs,
)


class Longer(AnswerMetric):
    """1 if the answer is longer than the reference."""

    def score(self, answer: str, reference: str) -> float:
        return float(len(answer) > len(reference))


def test_compute_returns_a_score_for_each_pair_in_order() -> None:
    with in_memory() as options:
        found = Longer(**options).compute(predictions=["abc", ""], references=["a", "b"])
    assert found == {"scores": [1.0, 0.0]}


def test_lone_surrogates_can_be_scored() -> None:
    with in_memory() as options:
        assert score_pairs(Longer(**options), ["\ud800"], ["\udfff\udfff"]) == [0.0]


def test_a_metric_without_a_score_says_what_to_define() -> None:
    with in_memory() as options, pytest.raises(NotImplementedError, match="define the method"):
        AnswerMetric(**options).score("a", "b")


def test_checks_take_the_place_of_the_reference() -> None:
    checks = json.dumps([{"kind": "refusal", "expected": False}, {"kind": "max_words", "words": 1}])
    with in_memory() as options:
        assert Checks(**options).score("two words", checks) == 0.0
        assert RefusalAsExpected(**options).score("two words", checks) == 1.0


@pytest.mark.parametrize("name", ["token_f1", "rouge_l", "chrf", "length_ratio"])
def test_the_best_score_is_one(name: str) -> None:
    assert compute(name, ["a cat sat"], ["a cat sat"]) == [pytest.approx(1.0)]


def test_every_module_describes_itself() -> None:
    assert all(module.description for module in MODULES.values())


def test_the_temporary_folder_is_removed() -> None:
    with in_memory() as options:
        folder = Path(options["cache_dir"])
        assert folder.is_dir()
    assert not folder.exists()
