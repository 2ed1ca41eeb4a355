"""Prompts share no more than their common prefix, and only if that saves a pass."""

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.scoring.shared_prefixes import MIN_SAVED_TOKENS, shared_prefixes

PROMPTS = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=80).map(tuple), min_size=0, max_size=12
)


@given(PROMPTS, st.lists(st.integers(0, 2), max_size=60).map(tuple))
@settings(derandomize=True, database=None, deadline=None)
def test_every_shared_prefix_saves_at_least_its_cost(
    prompts: list[tuple[int, ...]], system: tuple[int, ...]
) -> None:
    prompts += [system + prompt for prompt in prompts]
    shared = shared_prefixes(prompts)
    assert len(shared) == len(prompts)
    assert all(count < len(prompt) for count, prompt in zip(shared, prompts, strict=True))
    groups = sorted(p[:n] for p, n in zip(prompts, shared, strict=True) if n)
    for prefix, members in groupby(groups):
        assert (len(list(members)) - 1) * len(prefix) >= MIN_SAVED_TOKENS


def test_two_system_prompts_make_two_groups() -> None:
    one, other = tuple(range(100, 140)), tuple(range(200, 260))
    prompts = [(1, *one, 7), (1, *other, 8, 8), (1, *one, 9), (1, *other, 5), (1, *one, 7, 7)]
    assert shared_prefixes(prompts) == (41, 61, 41, 61, 41)


def test_short_prefixes_and_single_prompts_are_not_shared() -> None:
    assert shared_prefixes([]) == ()
    assert shared_prefixes([(1,) * 500]) == (0,)
    assert shared_prefixes([(1, 2, 3), (1, 2, 4)]) == (0, 0)


def test_a_prompt_never_shares_its_last_token() -> None:
    whole = tuple(range(64))
    assert shared_prefixes([whole, whole, (*whole, 1)]) == (63, 63, 63)
