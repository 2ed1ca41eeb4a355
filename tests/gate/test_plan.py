"""The plan lists every check that must run, each with its own id."""

import pytest

from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.plan import choose, plan


def test_ids_of_several_adapters_have_their_names() -> None:
    ids = [p.id for p in plan([("a", ()), ("b", ())], ("static", "export"))]
    assert "phi3::static::files[a]" in ids
    assert "phi3::export::exported_model_matches[b]" in ids
    assert len(set(ids)) == len(ids)


def limit(group: str, rule: str = "no_worse_than", against: str = "base") -> Limit:
    return Limit(group=group, metric="loss", rule=rule, value=0.1, against=against)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            [limit("target", against="baseline")],
            [limit("target,baseline")],
            r"id phi3::quality::loss\[target,baseline\]: loss no worse than the baseline by more "
            r"than 0.1, in the group 'target'; and loss no worse than the base by more than 0.1, "
            r"in the group 'target,baseline'; rename a group",
        ),
        (
            [limit("a", rule="at_least"), limit("a", rule="at_most")],
            [limit("a,at_most")],
            "loss at most 0.1, in the group 'a'; and loss no worse than .*, in the group 'a,at_m",
        ),
    ],
)
def test_two_limits_whose_checks_have_one_id_are_refused(
    first: list[Limit], second: list[Limit], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        plan([("a", [*first, *second])], ("quality",))
    apart = plan([("a", first), ("b", second)], ("quality",))
    assert len({p.id for p in apart}) == len(apart)
    plan([("a", [*first, *second])], ("static",))  # no such check is planned


def test_equal_ids_of_two_adapters_are_refused() -> None:
    adapters = [("c", [limit("a][b")]), ("b][c", [limit("a")])]
    words = r"id phi3::quality::loss\[a\]\[b\]\[c\]: .* 'a\]\[b' \(adapter 'c'\); and .*"
    with pytest.raises(
        InputError, match=words + r"'b\]\[c'\); rename a group or an adapter's folder"
    ):
        plan(adapters, ("quality",))
    plan([("c", [limit("a][b")]), ("b", [limit("a")])], ("quality",))


def test_the_id_of_a_stage_selects_all_its_checks() -> None:
    all_of = plan([("a", ())], ("static", "math"))
    assert {p.check.stage for p in choose(all_of, ["phi3::math"])} == {"math"}
    assert choose(all_of, ["phi3"]) == all_of
    with pytest.raises(InputError, match="unknown check: "):
        choose(all_of, ["phi3::math::nothing"])
