"""The search finds what comparing every text with every other one finds, in bounded time."""

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.data.near_duplicates import NEAR, Index, grams, jaccard

WORDS = st.sampled_from(["a", "b", "c", "d", "e"])
TEXT = st.lists(WORDS, max_size=14).map(" ".join)


def near(one: str, other: str) -> bool:
    return jaccard(grams(one), grams(other)) >= NEAR


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.lists(TEXT, max_size=12))
def test_it_finds_exactly_the_pairs_that_are_near(texts: list[str]) -> None:
    index = Index([grams(text) for text in texts])
    found = set()
    for number, text in enumerate(texts):
        found |= {(other, number) for other, _ in index.find(grams(text))}
        index.add(number)
    every = [(i, j) for j in range(len(texts)) for i in range(j) if near(texts[i], texts[j])]
    assert found == set(every)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("What is the capital of France?", "what is  the capital of France", True),
        ("What is the capital of France?", "What is the capital of Spain?", False),
        ("What is 3 + 5?", "What is 3 - 5?", False),
        ("Now name a season that we have all year", "name a season that we have all year", True),
        ("東京はどこにありますか今", "東京はどこにありますか", True),
        ("hot", "cold", False),
    ],
)  # fmt: skip
def test_marks_and_case_do_not_count_but_words_and_signs_do(
    one: str, other: str, alike: bool
) -> None:
    assert near(one, other) is alike


def test_a_gram_is_the_same_in_every_process() -> None:
    code = (
        "from phi3_lora_qa.data.near_duplicates import grams\n"
        "print(list(grams('Où est la gare ?')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == str(list(grams("Où est la gare ?")))


def test_texts_that_are_all_somewhat_alike_do_not_take_for_ever() -> None:
    rng = random.Random(0)
    shared = rng.choices("abcdefghijklmnopqrstuvwxyz", k=60)
    texts = []
    for _ in range(3_000):
        words = list(shared)
        for _ in range(5):
            words[rng.randrange(60)] = str(rng.randrange(5_000))
        texts.append(grams(" ".join(words)))
    index = Index(texts, budget=20_000)
    start = time.process_time()
    for number, text in enumerate(texts):
        list(index.find(text))
        index.add(number)
    assert index.budget == 0
    assert time.process_time() - start < 10
