"""Limits from a file: read strictly, and expanded to every group."""

from pathlib import Path
from typing import get_args

import pytest

from phi3_lora_qa.data import thresholds
from phi3_lora_qa.data.thresholds import (
    RULES,
    Limit,
    baseline_limits,
    default_limits,
    expand,
    limit_text,
)
from phi3_lora_qa.errors import DataError
from phi3_lora_qa.metrics import known_metrics, share_metrics
from phi3_lora_qa.record import Rule
from phi3_lora_qa.setting_specs import PROFILES

GOOD = """
[[limit]]
group = "target"
metric = "loss"
rule = "improve_by"
value = 0

[[limit]]
group = "*"
metric = "token_f1"
rule = "no_worse_than"
value = 0.05
"""


def read_thresholds(path: Path, *custom: str) -> tuple[Limit, ...]:
    return thresholds.read_thresholds(path, (*known_metrics(), *custom), share_metrics())


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_gives_its_limits(tmp_path: Path) -> None:
    assert read_thresholds(write(tmp_path, GOOD)) == (
        Limit(group="target", metric="loss", rule="improve_by", value=0.0),
        Limit(group="*", metric="token_f1", rule="no_worse_than", value=0.05),
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[[limit]]", "[[limits]]", r"unknown table 'limits'.*did you mean 'limit'\?"),
        ("metric =", "metrik =", r"limit 1.*unknown field 'metrik'.*did you mean 'metric'\?"),
        ('"loss"', '"los"', r"unknown metric 'los'.*did you mean 'loss'\?"),
        ('"improve_by"', '"improves_by"', r"unknown rule .*did you mean 'improve_by'\?"),
        ("value = 0\n", "", "has no value"),
        ("value = 0\n", "value = true\n", "finite number"),
        ("value = 0\n", "value = nan\n", "finite number"),
        ("value = 0\n", "value = -0.1\n", "0 or more"),
        ("value = 0\n", f"value = 1{'0' * 400}\n", "finite number"),
        ("value = 0\n", f"value = {'[' * 5000}\n", "cannot read"),
        ("value = 0.05\n", "value = 5\n", "write a share, such as 0.05 for 5 %"),
        (
            'rule = "no_worse_than"\nvalue = 0.05',
            'rule = "at_least"\nvalue = -1',
            "between 0 and 1",
        ),
        (
            'rule = "no_worse_than"\nvalue = 0.05',
            'rule = "improve_by"\nvalue = 1.0',
            "so it cannot improve by more than 1; write a smaller share",
        ),
        ('group = "target"', "group = 3", "group must be a non-empty string"),
        ('group = "target"', 'group = ""', "group must be a non-empty string"),
        ("[[limit]]", "[limit", "cannot read"),
        ("value = 0\n", 'value = 0\nagainst = "basis"\n', r"unknown against .*did you mean 'base'"),
        ("value = 0\n", "value = 0\nagainst = 1\n", "against must be a non-empty string"),
        (
            'rule = "improve_by"',
            'rule = "at_most"\nagainst = "baseline"',
            "at_most does not compare two models; remove 'against'",
        ),
    ],
)
def test_a_mistake_is_named_with_the_nearest_right_name(
    old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=complaint):
        read_thresholds(write(tmp_path, GOOD.replace(old, new, 1)))


@pytest.mark.parametrize("text", ["", "limit = 3", "limit = []"])
def test_a_file_without_limits_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no limits"):
        read_thresholds(write(tmp_path, text))


def test_a_list_that_is_not_of_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a table"):
        read_thresholds(write(tmp_path, "limit = [3]"))


def test_limits_that_cannot_both_pass_are_an_error(tmp_path: Path) -> None:
    limit = '[[limit]]\ngroup = "target"\nmetric = "loss"\nrule = "{}"\nvalue = {}\n'
    apart = limit.format("at_most", 1) + limit.format("at_least", 2)
    with pytest.raises(
        DataError, match=r"limit 2: loss of target cannot be both .* 2 and at most 1; change one"
    ):
        read_thresholds(write(tmp_path, apart))
    together = limit.format("at_most", 2) + limit.format("at_least", 1)
    assert len(read_thresholds(write(tmp_path, together))) == 2


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert len(read_thresholds(write(tmp_path, "\ufeff" + GOOD))) == 2


def test_only_a_metric_between_0_and_1_needs_a_limit_in_that_range(tmp_path: Path) -> None:
    """Which metrics these are is known to the metrics alone; a custom one may be anything."""
    for metric in (*known_metrics(), "politeness"):
        path = write(tmp_path, GOOD.replace('"token_f1"', f'"{metric}"').replace("0.05", "5"))
        if metric in share_metrics():
            with pytest.raises(DataError, match=f"{metric} is between 0 and 1"):
                read_thresholds(path)
        else:
            assert read_thresholds(path, "politeness")[-1].value == 5
    assert set(known_metrics()) - set(share_metrics()) == {"loss", "divergence"}


def test_a_custom_metric_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('"loss"', '"politeness"'))
    with pytest.raises(DataError, match="unknown metric 'politeness'"):
        read_thresholds(path)
    assert read_thresholds(path, "politeness")[0].metric == "politeness"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_thresholds(tmp_path / "none.toml")


def test_two_limits_of_one_kind_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"limit 3.*two improve_by limits for loss"):
        read_thresholds(write(tmp_path, GOOD + GOOD.split("\n\n", 1)[0]))


def test_the_star_means_every_group_without_its_own_limit() -> None:
    groups = ("target", "general", "code")
    limits = expand(default_limits(groups), groups)
    assert [(lim.group, lim.metric, lim.rule, lim.value) for lim in limits] == [
        ("target", "loss", "improve_by", 0.05),
        ("target", "token_f1", "no_worse_than", 0.05),
        ("target", "exact_match", "no_worse_than", 0.1),
        *(
            (group, metric, "no_worse_than", 0.1)
            for group in ("general", "code")
            for metric in ("loss", "exact_match", "token_f1")
        ),
    ]


def test_a_limit_for_a_group_that_is_not_in_the_suite_is_kept() -> None:
    limit = Limit(group="safty", metric="loss", rule="at_most", value=1.0)
    assert expand([limit], ("target", "safety")) == (limit,)


def test_the_built_in_limits_ignore_a_target_that_is_not_in_the_suite() -> None:
    limits = expand(default_limits(("general",)), ("general",))
    assert {limit.group for limit in limits} == {"general"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("at_least", "loss at least 0.5"),
        ("at_most", "loss at most 0.5"),
        ("improve_by", "loss better than the base by more than 0.5"),
        ("no_worse_than", "loss no worse than the base by more than 0.5"),
    ],
)
def test_a_limit_is_described_in_words(rule: str, words: str) -> None:
    limit = Limit(group="target", metric="loss", rule=rule, value=0.5)
    assert limit.describe() == words
    assert f"loss {limit_text(limit.entry())}" == words
    assert set(RULES) == set(get_args(Rule))


def test_one_metric_can_have_a_limit_against_the_base_and_one_against_the_baseline(
    tmp_path: Path,
) -> None:
    second = GOOD.split("\n\n", 1)[0].replace("value = 0", 'value = 0\nagainst = "baseline"')
    limits = read_thresholds(write(tmp_path, GOOD + second))
    assert [limit.against for limit in limits] == ["base", "base", "baseline"]
    assert limits[-1].describe() == "loss better than the baseline by more than 0"


def test_a_groups_limit_against_the_base_does_not_replace_the_star_against_the_baseline() -> None:
    limits = expand([*default_limits(("target",)), *baseline_limits()], ("target", "general"))
    assert [limit.metric for limit in limits if limit.against == "baseline"] == [
        "loss", "exact_match", "token_f1",
    ] * 2  # fmt: skip


def test_no_profile_is_more_lenient_than_the_next_one() -> None:
    groups = ("target", "general")
    strict, default, smoke = (default_limits(groups, profile) for profile in PROFILES)
    assert [limit.metric for limit in strict] == [limit.metric for limit in smoke]
    for hard, middle, soft in zip(strict, default, smoke, strict=True):
        if hard.rule == "improve_by":
            assert hard.value >= middle.value >= soft.value
        else:
            assert hard.value < middle.value < soft.value


@pytest.mark.parametrize(("profile", "n"), [("strict", 59), ("default", 29), ("smoke", 11)])
def test_a_profile_says_how_many_unchanged_items_it_takes(profile: str, n: int) -> None:
    from phi3_lora_qa.record import Outcome
    from phi3_lora_qa.stats.paired import compare, decide

    limit = next(li for li in default_limits(("general",), profile) if li.metric == "exact_match")

    def judged(items: int) -> Outcome:
        same = [1.0] * items
        return decide(compare(same, same, seed=0, binary=True), limit.rule, limit.value, True)

    assert judged(n) is Outcome.PASSED
    assert judged(n - 1) is Outcome.INCONCLUSIVE
