"""The search finds the same pairs as comparing all texts does, in bounded time."""

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.data.near_duplicates import THRESHOLD, NearDuplicateIndex, jaccard, shingles

WORDS = st.sampled_from(["a", "b", "c", "d", "e"])
TEXT = st.lists(WORDS, max_size=14).map(" ".join)


def is_near(one: str, other: str) -> bool:
    return jaccard(shingles(one), shingles(other)) >= THRESHOLD


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(TEXT, max_size=12))
def test_the_search_finds_exactly_the_near_duplicates(texts: list[str]) -> None:
    index = NearDuplicateIndex([shingles(text) for text in texts])
    found = set()
    for number, text in enumerate(texts):
        found |= {(other, number) for other, _ in index.find(shingles(text))}
        index.add(number)
    every = [(i, j) for j in range(len(texts)) for i in range(j) if is_near(texts[i], texts[j])]
    assert found == set(every)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("What is the capital of France?", "what is  the capital of France", True),
        ("What is the capital of France?", "What is the capital of Spain?", False),
        ("What is 3 + 5?", "What is 3 - 5?", False),
        ("Now name a season that we have all year", "name a season that we have all year", True),
        ("東京はどこにありますか今", "東京はどこにありますか", True),
        ("hot", "cold", False),
    ],
)  # fmt: skip
def test_punctuation_and_case_are_ignored_but_words_and_symbols_are_not(
    one: str, other: str, expected: bool
) -> None:
    assert is_near(one, other) is expected


def test_a_shingle_is_the_same_in_every_process() -> None:
    code = (
        "from phi3_lora_qa.data.near_duplicates import shingles\n"
        "print(list(shingles('Où est la gare ?')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == str(list(shingles("Où est la gare ?")))


def test_the_search_is_bounded_when_all_texts_are_similar() -> None:
    rng = random.Random(0)
    shared = rng.choices("abcdefghijklmnopqrstuvwxyz", k=60)
    texts = []
    for _ in range(3_000):
        words = list(shared)
        for _ in range(5):
            words[rng.randrange(60)] = str(rng.randrange(5_000))
        texts.append(shingles(" ".join(words)))
    index = NearDuplicateIndex(texts, budget=20_000)
    start = time.process_time()
    for number, text in enumerate(texts):
        list(index.find(text))
        index.add(number)
    assert index.budget == 0
    assert time.process_time() - start < 10
