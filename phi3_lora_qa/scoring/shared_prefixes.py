"""Which prompts begin alike, so that a common prefix (often a system prompt) is computed once."""

from collections.abc import Sequence
from itertools import pairwise

Tokens = tuple[int, ...]

MIN_SAVED_TOKENS = 32
"""The fewest tokens that sharing must save; the extra pass costs about as much as some tokens."""


def shared_prefixes(prompts: Sequence[Tokens]) -> tuple[int, ...]:
    """Return, for each prompt, how many of its first tokens are computed once for its group.

    When sorted, prompts that begin alike are neighbours. A group is a run of neighbours that share
    at least a minimum number of tokens; the minimum is the one that saves most. The last token of a
    prompt is never shared, because the answer follows from it.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    common = [_common_length(prompts[one], prompts[other]) for one, other in pairwise(order)]
    best = max(sorted(set(common)), key=lambda least: _saved(_runs(common, least)), default=0)
    shared = [0] * len(prompts)
    for first, last, tokens in _runs(common, best):
        if (last - first) * tokens >= MIN_SAVED_TOKENS:
            for index in range(first, last + 1):
                shared[order[index]] = tokens
    return tuple(shared)


def _common_length(one: Tokens, other: Tokens) -> int:
    longest = min(len(one), len(other)) - 1
    return next((index for index in range(longest) if one[index] != other[index]), longest)


def _runs(common: Sequence[int], least: int) -> list[tuple[int, int, int]]:
    """Return (first, last, shared tokens) of each run of neighbours that share at least ``least``.

    Args:
        common: How many tokens each prompt shares with the next one.
        least: The fewest shared tokens within a run.
    """
    runs: list[tuple[int, int, int]] = []
    for index, tokens in enumerate(common):
        if tokens < max(least, 1):
            continue
        if runs and runs[-1][1] == index:
            first, _, fewest = runs.pop()
            runs.append((first, index + 1, min(fewest, tokens)))
        else:
            runs.append((index, index + 1, tokens))
    return runs


def _saved(runs: Sequence[tuple[int, int, int]]) -> int:
    return sum((last - first) * tokens for first, last, tokens in runs)
