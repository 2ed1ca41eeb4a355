import math
import re

import pytest

from phi3_lora_qa.data.thresholds import BASE, BASELINE, RULES
from phi3_lora_qa.record import Against, Rule
from phi3_lora_qa.report.plots import (
    INTERVAL_WIDTH,
    bar_plot,
    bounds_tuned_mean,
    interval_plot,
    limit_value,
)
from tests.report.builders import METRICS, limit, metric


def test_the_interval_keeps_the_order_of_its_numbers_within_the_plot() -> None:
    for m in METRICS:
        plot = interval_plot(m)
        assert plot is not None
        assert 0 <= plot.low <= plot.point <= plot.high <= INTERVAL_WIDTH
        assert plot.zero == INTERVAL_WIDTH / 2


def test_an_interval_beyond_the_limit_is_drawn_beyond_it() -> None:
    plot = interval_plot(metric(difference=0.214, low=0.171, high=0.257))
    assert plot is not None
    assert plot.limit is not None
    assert plot.zero < plot.limit < plot.low


@pytest.mark.parametrize(
    ("name", "rule", "where"),
    [
        ("loss", "no_worse_than", 0.05),
        ("exact_match", "no_worse_than", -0.05),
        ("loss", "improve_by", -0.05),
        ("exact_match", "improve_by", 0.05),
        ("loss", "at_most", 0.05 - 1.842),
    ],
)
def test_the_limit_is_on_the_side_that_its_rule_and_metric_require(
    name: str, rule: Rule, where: float | None
) -> None:
    assert limit_value(metric(metric=name, limit=limit(metric=name, rule=rule))) == where


def test_an_interval_of_the_tuned_mean_is_drawn_relative_to_the_base() -> None:
    m = metric(
        metric="rouge_l",
        base=0.5,
        tuned=0.7,
        difference=0.2,
        low=0.65,
        high=0.75,
        limit=limit(metric="rouge_l", rule="at_least", value=0.6),
    )
    plot = interval_plot(m)
    assert bounds_tuned_mean(m)
    assert plot is not None
    assert plot.limit is not None
    assert plot.zero < plot.limit < plot.low < plot.point < plot.high


@pytest.mark.parametrize("against", [BASE, BASELINE])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_can_be_drawn(rule: Rule, against: Against) -> None:
    drawn = limit(rule=rule, value=1e-05, against=against)
    assert limit_value(metric(limit=drawn)) is not None


def test_a_limit_that_is_not_finite_is_not_drawn() -> None:
    assert limit_value(metric(limit=limit(value=math.nan))) is None
    assert limit_value(metric(limit=None)) is None


def test_an_infinite_interval_is_not_drawn() -> None:
    assert interval_plot(metric(low=-math.inf)) is None
    assert interval_plot(metric(difference=math.nan)) is None


def test_an_interval_of_nothing_but_zeros_is_drawn_at_zero() -> None:
    plot = interval_plot(metric(difference=0.0, low=0.0, high=0.0, limit=None))
    assert plot is not None
    assert plot.low == plot.high == plot.zero
    assert plot.limit is None


def test_the_largest_bar_fills_the_plot_and_a_value_that_is_not_finite_is_counted() -> None:
    plot = bar_plot([1.0, 2.0, math.nan], height=20)
    heights = [float(h) for h in re.findall(r"v-([\d.]+)", plot.path)]
    assert heights == [10.0, 20.0, 20.0]
    assert plot.not_finite == 1
    assert bar_plot([]).path == ""
