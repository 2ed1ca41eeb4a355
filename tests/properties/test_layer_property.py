"""Comparisons: errors, bounds and statements."""

import numpy as np
import pytest

from phi3_lora_qa.properties.layer_property import (
    Comparison,
    check_statement,
    compare,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0.0, -1.5, INF, -INF, NAN])
def test_equal_values_have_no_error_and_need_no_bound(value: float) -> None:
    found = compare("it", np.array([value]), np.array([value]))
    assert (found.what, found.error.tolist(), found.bound.tolist()) == ("it", [0.0], 0.0)
    assert found.worst == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("found", "expected"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, -INF)])
def test_nan_and_opposite_infinities_are_infinitely_far(found: float, expected: float) -> None:
    assert compare("it", np.array([found]), np.array([expected]), 1e300).worst[0] == INF


def test_without_a_bound_the_smallest_difference_is_too_large() -> None:
    ratio, error, bound = compare("it", np.array([1.0]), np.array([1.0 + 2.0**-52])).worst
    assert (ratio, error, bound) == (INF, 2.0**-52, 0.0)


def test_the_worst_entry_has_the_largest_ratio_and_not_the_largest_error() -> None:
    found = Comparison(what="it", error=np.array([4.0, 1.0]), bound=np.array([16.0, 2.0]))
    assert found.worst == (0.5, 1.0, 2.0)
    assert Comparison(what="it", error=np.zeros(0), bound=np.zeros(())).worst == (0.0, 0.0, 0.0)


def test_a_false_statement_has_error_one() -> None:
    assert check_statement("it", is_true=True).worst == (0.0, 0.0, 0.0)
    assert check_statement("it", is_true=False).worst == (INF, 1.0, 0.0)


def test_a_difference_says_what_how_much_and_what_is_allowed() -> None:
    found = compare("the delta", np.array([0.75]), np.array([0.0]), 0.5)
    assert found.difference == "the delta is off by 0.75, but rounding allows only 0.5"
    exact = compare("the delta", np.array([0.75]), np.array([0.0]))
    assert exact.difference == "the delta is off by 0.75, but rounding allows no error"
    assert check_statement("it is frozen", is_true=False).difference == "not true: it is frozen"
