"""What quantizing a base changes is measured on the same items."""

import math

from phi3_lora_qa.gate.quantization_effect import QuantizationEffect, compare_quantized
from phi3_lora_qa.scoring import ItemScore


def score(name: str, loss: float, answer: str, error: str = "") -> ItemScore:
    return ItemScore(item_id=name, loss=loss, tokens=1, answer=answer, stopped=True, error=error)


def test_the_mean_the_largest_change_and_the_share_of_other_answers() -> None:
    base = [score("a", 1.0, "x"), score("b", 2.0, "y"), score("c", 0.5, "z", "too long")]
    other = [score("a", 1.5, "x"), score("b", 1.0, "n"), score("c", 0.5, "z")]
    found = compare_quantized(base, other)
    assert found == QuantizationEffect(
        items=2, loss_change=-0.25, largest_loss_change=-1.0, answers_changed=0.5
    )
    assert found.notes() == {
        "quantization_items": 2,
        "quantization_loss_change": -0.25,
        "quantization_largest_loss_change": -1.0,
        "quantization_answers_changed": 0.5,
    }


def test_without_a_pair_of_scores_nothing_is_measured() -> None:
    failed = [score("a", math.nan, "", "too long")]
    notes = compare_quantized(failed, failed).notes()
    assert notes == {"quantization_effect": "not measured: no item was scored by both models"}
