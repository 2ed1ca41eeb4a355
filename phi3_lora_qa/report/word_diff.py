"""A word diff of two answers, as segments that a template can mark."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of text; ``changed`` if the other answer does not have it at this position."""

    text: str
    changed: bool


def word_diff(base: str, tuned: str) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Return both answers as segments; joined, they are the answers.

    Pass bounded texts: the time grows with the product of their lengths.
    """
    left, right = _WORD.findall(base), _WORD.findall(tuned)
    codes = SequenceMatcher(None, left, right).get_opcodes()
    changes = [tag != "equal" for tag, *_ in codes]
    for i in range(1, len(codes) - 1):
        # A single space between two changed words is shown as changed, too.
        _, start, end, _, _ = codes[i]
        if changes[i - 1] and changes[i + 1] and "".join(left[start:end]).isspace():
            changes[i] = True
    pairs = list(zip(changes, codes, strict=True))
    return (
        tuple(_merge((changed, "".join(left[code[1] : code[2]])) for changed, code in pairs)),
        tuple(_merge((changed, "".join(right[code[3] : code[4]])) for changed, code in pairs)),
    )


def _merge(runs: Iterator[tuple[bool, str]]) -> Iterator[Segment]:
    for changed, group in groupby((run for run in runs if run[1]), key=lambda run: run[0]):
        yield Segment(text="".join(text for _, text in group), changed=changed)
