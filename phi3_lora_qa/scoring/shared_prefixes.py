"""Which rows begin alike, so that what they share is computed once: a system prompt, mostly."""

from collections.abc import Sequence
from itertools import pairwise

Tokens = tuple[int, ...]

WORTH = 32
"""Tokens that sharing must save; a pass of its own costs about as much as some of them."""


def shared_prefixes(prompts: Sequence[Tokens]) -> tuple[int, ...]:
    """Return for each prompt how many of its first tokens are computed once for its family.

    Sorted, prompts that begin alike are neighbours. A family is a run of neighbours that share at
    least so many tokens, and the number is the one that saves most. The last token of a prompt is
    never shared: it is what the answer follows from.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    alike = [_alike(prompts[one], prompts[other]) for one, other in pairwise(order)]
    best = max(sorted(set(alike)), key=lambda least: _saved(_runs(alike, least)), default=0)
    shared = [0] * len(prompts)
    for first, last, tokens in _runs(alike, best):
        if (last - first) * tokens >= WORTH:
            for place in range(first, last + 1):
                shared[order[place]] = tokens
    return tuple(shared)


def _alike(one: Tokens, other: Tokens) -> int:
    most = min(len(one), len(other)) - 1
    return next((at for at in range(most) if one[at] != other[at]), most)


def _runs(alike: Sequence[int], least: int) -> list[tuple[int, int, int]]:
    """Return (first, last, tokens shared) of each run of neighbours that share at least so many."""
    runs: list[tuple[int, int, int]] = []
    for place, tokens in enumerate(alike):
        if tokens < max(least, 1):
            continue
        if runs and runs[-1][1] == place:
            first, _, fewest = runs.pop()
            runs.append((first, place + 1, min(fewest, tokens)))
        else:
            runs.append((place, place + 1, tokens))
    return runs


def _saved(runs: Sequence[tuple[int, int, int]]) -> int:
    return sum((last - first) * tokens for first, last, tokens in runs)
