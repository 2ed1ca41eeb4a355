"""Checkpoint stage: saving and merging keep the adapter, and the adapter keeps the base."""

from phi3_lora_qa.gate.check import Check
from phi3_lora_qa.gate.checks import base_integrity, low_precision, merged_weights, round_trips


def checks() -> tuple[Check, ...]:
    """Return the stage's checks. Those on the base run last, so that they see every change."""
    return (
        *round_trips.checks(),
        *low_precision.checks(),
        *merged_weights.checks(),
        *base_integrity.checks(),
    )
