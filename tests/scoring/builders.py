"""Items and models that several test modules of this folder build."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.scoring import ItemScore

ROUNDING = 1e-5
"""float32 sums of some hundred terms of size one in a different order: about 100 * 6e-8."""


def item(*, id: str, question: str, answer: str) -> Item:  # noqa: A002
    return Item(id=id, prompt=(Message(role="user", content=question),), reference=answer)


def longrope(threshold: int = 64, heads_size: int = 8) -> dict[str, Any]:
    """Return the config of a Phi-3 that uses other rotary frequencies beyond a threshold."""
    half = heads_size // 2
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0}
    factors = {"short_factor": [1.0] * half, "long_factor": [3.0] * half}
    length = {"original_max_position_embeddings": threshold}
    return {**length, "rope_parameters": {**rope, **factors, **length}}


def assert_same_scores(
    scores: Sequence[ItemScore], expected: Sequence[ItemScore], tolerance: float = ROUNDING
) -> None:
    """Compare all fields; losses may differ by a tolerance in nats per token."""
    assert [replace(score, loss=0.0) for score in scores] == [
        replace(score, loss=0.0) for score in expected
    ]
    assert [score.loss for score in scores] == pytest.approx(
        [score.loss for score in expected], abs=tolerance
    )
