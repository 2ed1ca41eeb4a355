"""How the tests of this room draw: the same examples each time, and nothing kept between runs."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.strategies import SearchStrategy

Value = TypeVar("Value")

QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SLOW = settings(QUICK, max_examples=35)
"""For those that build a model for each example."""


def smallest(
    strategy: SearchStrategy[Value], condition: Callable[[Value], object] = lambda value: True
) -> Value:
    """Return what an example that meets the condition shrinks to."""
    return find(
        strategy,
        lambda value: bool(condition(value)),
        settings=settings(QUICK, max_examples=300, phases=(Phase.generate, Phase.shrink)),
    )
