"""Draws cases of a kind of layer."""

from typing import Any

from hypothesis import HealthCheck, given, settings

from phi3_lora_qa.properties.layer_kinds import layer_kinds

KINDS = {kind.name: kind for kind in layer_kinds()}
SIDES = {1, 2, 3}
"""The sides of drawn kernels."""


def draw_cases(kind: str, number: int) -> list[Any]:
    """Draw cases of a kind; the same ones each time."""
    found = []

    @settings(max_examples=number, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(KINDS[kind].under_test.cases())
    def draw(case: Any) -> None:
        found.append(case)

    draw()
    return found
