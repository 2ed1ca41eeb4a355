"""What quantizing a base changes: its scores with and without, on the same items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.dataclass_json import Json

if TYPE_CHECKING:
    from phi3_lora_qa.scoring.score_items import ItemScore


@dataclass(frozen=True, kw_only=True)
class QuantizationEffect:
    """The change of a base's scores by quantizing it.

    Attributes:
        items: How many items both models have scores for.
        loss_change: The mean loss on the quantized base minus that on the base, in nats per token.
        largest_loss_change: The change of the item whose loss changes most, in either direction.
        answers_changed: The share of items with another greedy answer.
        not_measured: Why nothing was measured; empty if it was.
    """

    items: int = 0
    loss_change: float = math.nan
    largest_loss_change: float = math.nan
    answers_changed: float = math.nan
    not_measured: str = ""

    def notes(self) -> Mapping[str, Json]:
        """Return the effect as entries of a record's environment."""
        if self.not_measured:
            return {"quantization_effect": f"not measured: {self.not_measured}"}
        return {
            "quantization_items": self.items,
            "quantization_loss_change": self.loss_change,
            "quantization_largest_loss_change": self.largest_loss_change,
            "quantization_answers_changed": self.answers_changed,
        }


def compare_quantized(
    base: Sequence["ItemScore"], quantized: Sequence["ItemScore"]
) -> QuantizationEffect:
    """Return the effect from the scores of both models on the same items, in the same order."""
    pairs = [
        (one, other)
        for one, other in zip(base, quantized, strict=True)
        if not (one.error or other.error)
    ]
    if not pairs:
        return QuantizationEffect(not_measured="no item was scored by both models")
    changes = [other.loss - one.loss for one, other in pairs]
    return QuantizationEffect(
        items=len(pairs),
        loss_change=math.fsum(changes) / len(pairs),
        largest_loss_change=max(changes, key=abs),
        answers_changed=sum(one.answer != other.answer for one, other in pairs) / len(pairs),
    )
