"""Text metrics, and the normalisation that they share.

Normalisation applies Unicode NFKC and case folding, replaces runs of white space with one space,
and drops full stops and exclamation marks at the end, unless there is nothing else. All other
punctuation counts for the exact match: ``3.5`` is not ``35`` and ``-2`` is not ``2``.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

_FINAL_MARKS = " .!。"


def normalise(text: str) -> str:
    """Return the text with case, spacing and final punctuation normalised."""
    folded = fold(text)
    return folded.rstrip(_FINAL_MARKS) or folded


def fold(text: str) -> str:
    """Return the text with case and spacing normalised."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def words(text: str) -> list[str]:
    """Return the normalised words without surrounding punctuation, but with signs of numbers.

    In scripts without spaces (Han, Hiragana, Katakana) every character is a word.
    """
    return [word for part in normalise(text).split() for word in _split(_strip(part)) if word]


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 if both normalise to the same text, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over words, counted with multiplicity.

    Source: Rajpurkar et al., SQuAD, EMNLP 2016, section 6.1, over ``words``. As there, punctuation
    around a word is ignored, ``%`` and ``#`` included: ``50%`` and ``50`` are the same word here,
    but differ for the exact match. Unlike there, articles are words. If neither text has a word,
    the score is that of the exact match.
    """
    found, expected = Counter(words(answer)), Counter(words(reference))
    if not found and not expected:
        return exact_match(answer, reference)
    common = (found & expected).total()
    return 2.0 * common / (found.total() + expected.total())


def repetition(answer: str, n: int = 4) -> float:
    """Return the share of the answer's word n-grams that repeat an earlier one; 0.0 below n words.

    Source: seq-rep-n of Welleck et al., Neural Text Generation with Unlikelihood Training, ICLR
    2020, section 6.1: ``1 - distinct n-grams / n-grams``.
    """
    found = words(answer)
    grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def length_ratio(answer: str, reference: str) -> float:
    """Return the smaller number of words over the larger one: 1.0 if both are equal."""
    found, expected = len(words(answer)), len(words(reference))
    return min(found, expected) / max(found, expected) if found or expected else 1.0


def _strip(part: str) -> str:
    start, end = 0, len(part)
    while start < end and _is_punctuation(part[start]) and not _is_sign(part, start):
        start += 1
    while end > start and _is_punctuation(part[end - 1]):
        end -= 1
    return part[start:end]


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P")


def _is_sign(part: str, index: int) -> bool:
    return part[index] == "-" and part[index + 1 : index + 2].isdigit()


def _split(word: str) -> Iterator[str]:
    """Split a word around every character of a script without spaces."""
    start = 0
    for index, char in enumerate(word):
        if _is_own_word(char):
            yield word[start:index]
            yield char
            start = index + 1
    yield word[start:]


def _is_own_word(char: str) -> bool:
    return char > "\u3000" and unicodedata.name(char, "").startswith(
        ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA")
    )


class WordTokenizer:
    """``words`` as a tokenizer for rouge-score, whose own tokenizer supports only ASCII."""

    def tokenize(self, text: str) -> Sequence[str]:
        """Return the words of the text."""
        return words(text)
