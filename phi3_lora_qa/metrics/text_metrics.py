"""What counts as the same text: the normalisation behind every metric here.

Unicode is brought to NFKC and folded in case, runs of white space become one space, and full stops
and exclamation marks at the very end are dropped, unless there is nothing else. All other
punctuation stays for the exact match: ``3.5`` is not ``35`` and ``-2`` is not ``2``.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

_FINAL_MARKS = " .!。"


def normalise(text: str) -> str:
    """Return the text with case, spacing and final marks evened out."""
    folded = fold(text)
    return folded.rstrip(_FINAL_MARKS) or folded


def fold(text: str) -> str:
    """Return the text with case and spacing evened out."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def words(text: str) -> list[str]:
    """Return the normalised words, without the punctuation around them; signs of numbers stay.

    Scripts written without spaces (Han, Hiragana, Katakana) give one word for each character.
    """
    return [word for part in normalise(text).split() for word in _split(_bare(part)) if word]


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 if both normalise to the same text, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words with their multiplicity.

    Source: Rajpurkar et al., SQuAD, EMNLP 2016, section 6.1, with the words of ``words``. As there,
    marks around a word do not count, ``%`` and ``#`` among them: ``50%`` and ``50`` are one word
    here, and differ for the exact match. Unlike there, articles are words. Where neither text has
    a word, the exact match decides.
    """
    said, expected = Counter(words(answer)), Counter(words(reference))
    if not said and not expected:
        return exact_match(answer, reference)
    common = (said & expected).total()
    return 2.0 * common / (said.total() + expected.total())


def repetition(answer: str, n: int = 4) -> float:
    """Return the share of n-grams of words that the answer has said before, 0.0 below n words.

    Source: seq-rep-n of Welleck et al., Neural Text Generation with Unlikelihood Training, ICLR
    2020, section 6.1: ``1 - distinct n-grams / n-grams``.
    """
    said = words(answer)
    grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def length_ratio(answer: str, reference: str) -> float:
    """Return the smaller number of words over the larger: 1.0 where both are equally long."""
    said, expected = len(words(answer)), len(words(reference))
    return min(said, expected) / max(said, expected) if said or expected else 1.0


def _bare(part: str) -> str:
    start, end = 0, len(part)
    while start < end and _is_punctuation(part[start]) and not _is_sign(part, start):
        start += 1
    while end > start and _is_punctuation(part[end - 1]):
        end -= 1
    return part[start:end]


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")


def _is_sign(part: str, place: int) -> bool:
    return part[place] == "-" and part[place + 1 : place + 2].isdigit()


def _split(word: str) -> Iterator[str]:
    """Cut a word around every character of a script without spaces."""
    start = 0
    for place, char in enumerate(word):
        if _stands_alone(char):
            yield word[start:place]
            yield char
            start = place + 1
    yield word[start:]


def _stands_alone(char: str) -> bool:
    return char > "\u3000" and unicodedata.name(char, "").startswith(
        ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA")
    )


class Words:
    """The words in the form that rouge-score wants; its own tokenizer knows only ASCII."""

    def tokenize(self, text: str) -> Sequence[str]:
        """Return the words of the text."""
        return words(text)
