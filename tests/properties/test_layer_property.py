"""Comparisons, and what a property says about itself."""

import numpy as np
import pytest

from phi3_lora_qa.properties.catalogue import all_properties
from phi3_lora_qa.properties.layer_property import (
    Comparison,
    check_statement,
    compare,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0.0, -1.5, INF, -INF, NAN])
def test_equal_values_differ_by_nothing_and_need_no_bound(value: float) -> None:
    found = compare("it", np.array([value]), np.array([value]))
    assert (found.what, found.error.tolist(), found.bound.tolist()) == ("it", [0.0], 0.0)
    assert found.worst == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("found", "expected"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (INF, -INF)])
def test_what_is_no_number_is_infinitely_far_from_one(found: float, expected: float) -> None:
    assert compare("it", np.array([found]), np.array([expected]), 1e300).worst[0] == INF


def test_without_a_bound_the_least_difference_is_too_much() -> None:
    ratio, error, bound = compare("it", np.array([1.0]), np.array([1.0 + 2.0**-52])).worst
    assert (ratio, error, bound) == (INF, 2.0**-52, 0.0)


def test_the_worst_is_the_largest_share_of_its_bound_and_not_the_largest_error() -> None:
    found = Comparison(what="it", error=np.array([4.0, 1.0]), bound=np.array([16.0, 2.0]))
    assert found.worst == (0.5, 1.0, 2.0)
    assert Comparison(what="it", error=np.zeros(0), bound=np.zeros(())).worst == (0.0, 0.0, 0.0)


def test_a_statement_is_off_by_one_where_it_is_false() -> None:
    assert check_statement("it", is_true=True).worst == (0.0, 0.0, 0.0)
    assert check_statement("it", is_true=False).worst == (INF, 1.0, 0.0)


def test_every_property_says_what_it_is_in_a_sentence() -> None:
    properties = all_properties()
    assert len({p.id for p in properties}) == len(properties) > 40
    for tested in properties:
        assert tested.summary.endswith((".", ":")), tested.id
