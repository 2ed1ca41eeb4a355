"""Texts that say nearly the same, found among 100,000 within a minute and without a guess.

Two texts are near when the Jaccard index of their word 3-grams is at least ``NEAR``. Every such
pair shares a gram among the few rarest of each (the prefix filter: Chaudhuri, Ganti and Kaushik,
ICDE 2006; Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", WWW 2007, section 3),
so that only texts with a rare gram in common are compared.
"""

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias

NEAR = 0.8
GRAM = 3
MOST_COMPARISONS = 2_000_000
"""Some ten seconds' worth. A search that would need more ends early, and says so."""

_EAST = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_EAST}]|[^\W{_EAST}]+|[^\w\s.,;:!?\"'()]+")
_BUCKETS = 1 << 20

Grams: TypeAlias = "array[int]"
"""The distinct word 3-grams of a text, as 64-bit hashes in order."""


def grams(text: str) -> Grams:
    """Return the word 3-grams of a text; a shorter text is one gram.

    Case, spacing and marks of punctuation do not count; signs such as ``+`` are words.
    """
    words = [_hash(word) for word in _WORD.findall(text.casefold())]
    parts = [words[i : i + GRAM] for i in range(len(words) - GRAM + 1)] or [words]
    # The hash of a tuple of integers is the same in every process.
    return array("q", sorted({hash(tuple(part)) for part in parts}))


def jaccard(one: Grams, other: Grams) -> float:
    """Return the share of the grams of both that they have in common."""
    common = len(set(one).intersection(other))
    return common / (len(one) + len(other) - common)


@dataclass
class Index:
    """Texts to be found again, each by its number in ``known``, once it was added.

    ``unfinished`` counts the searches that ended early.
    """

    known: Sequence[Grams]
    budget: int = MOST_COMPARISONS
    unfinished: int = field(default=0, init=False)
    _counts: "array[int]" = field(init=False)
    _held: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Counts of buckets of grams: any order would do, and this one has the rare grams first.
        self._counts = array("q", bytes(8 * _BUCKETS))
        for text in self.known:
            for gram in text:
                self._counts[gram % _BUCKETS] += 1

    def add(self, number: int) -> None:
        """Let the text of this number be found from now on."""
        for gram in self._rare(self.known[number]):
            self._held.setdefault(gram, []).append(number)

    def find(self, wanted: Grams) -> Iterator[tuple[int, float]]:
        """Yield the number of each added text that is near, with the Jaccard index.

        Ends early once ``budget`` comparisons were made in all; ``budget`` is then 0.
        """
        seen = set[int]()
        for gram in self._rare(wanted):
            for number in self._held.get(gram, ()):
                other = self.known[number]
                small, large = sorted((len(wanted), len(other)))
                if number in seen or small < NEAR * large:
                    continue
                if self.budget <= 0:
                    self.unfinished += 1
                    return
                self.budget -= 1
                seen.add(number)
                if (alike := jaccard(wanted, other)) >= NEAR:
                    yield number, alike

    def _rare(self, text: Grams) -> list[int]:
        """Return as many of the rarest grams as leave out less than ``NEAR`` of them."""
        ordered = sorted(text, key=lambda gram: (self._counts[gram % _BUCKETS], gram))
        return ordered[: len(text) - math.ceil(NEAR * len(text)) + 1]


@lru_cache(maxsize=1 << 17)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "replace"), digest_size=7).digest(), "big")
