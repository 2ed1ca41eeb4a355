"""Settings for drawing in tests: the same examples each time, without a database."""

from collections.abc import Callable
from random import Random
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
"""For tests that build a model for each example."""


def smallest(
    strategy: SearchStrategy[Value], condition: Callable[[Value], object] = lambda value: True
) -> Value:
    """Return the smallest example that meets the condition."""
    return find(
        strategy,
        lambda value: bool(condition(value)),
        settings=settings(QUICK, max_examples=2_000, phases=(Phase.generate, Phase.shrink)),
        random=Random(0),  # otherwise it depends on the seed of the run
    )
