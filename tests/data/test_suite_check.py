"""Duplicates and questions that were trained on are found, and only those."""

import subprocess
import sys

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.suite_check import (
    Conversation,
    DuplicateItem,
    TrainedItem,
    check_suite,
)

LONG = "Please tell me which of the seven days of the week comes before the day of rest"
SYSTEM = Message(role="system", content="Answer as a pirate would.")


def user(text: str) -> Message:
    return Message(role="user", content=text)


def item(name: str, text: str, *before: Message, group: str = "target", cluster: str = "") -> Item:
    return Item(
        id=name, prompt=(*before, user(text)), reference="Six", group=group, cluster=cluster
    )


def trained_row(*turns: Message) -> Conversation:
    return (*turns, Message(role="assistant", content="Seven"))


def test_a_clean_suite_has_no_faults() -> None:
    items = [item("a", "How many legs has a spider?"), item("b", "How many legs has an ant?")]
    report = check_suite(items, [trained_row(user("How many legs has a bee?"))])
    assert report.is_clean
    assert (report.not_compared, report.not_compared_with_training) == (0, 0)
    assert [(group.name, group.items) for group in report.groups] == [("target", 2)]


def test_the_same_question_in_different_case_and_spacing_is_a_duplicate() -> None:
    items = [item("a", "How  many?"), item("b", "how many?\n", group="general"), item("c", "Why?")]
    report = check_suite(items)
    assert report.duplicates == (DuplicateItem(item="b", other="a", similarity=1.0),)
    assert not report.is_clean


def test_a_question_that_is_nearly_the_same_is_a_near_duplicate_unless_a_cluster_says_so() -> None:
    first, second = item("a", LONG), item("b", f"{LONG} now")
    (pair,) = check_suite([first, second]).near_duplicates
    assert (pair.item, pair.other) == ("b", "a")
    assert 0.8 <= pair.similarity < 1.0
    together = [item("a", LONG, cluster="week"), item("b", f"{LONG} now", cluster="week")]
    assert check_suite(together).is_clean
    apart = [item("a", LONG, cluster="week"), item("b", f"{LONG} now", cluster="day")]
    assert not check_suite(apart).is_clean
    assert check_suite([first, item("b", f"{LONG} now", SYSTEM)]).is_clean


def test_items_that_were_trained_on_are_found_exactly_and_nearly() -> None:
    items = [item("a", "How many?"), item("b", LONG), item("c", "Why?")]
    trained = [trained_row(user(text)) for text in ("Who?", f"{LONG} now", "HOW MANY?")]
    report = check_suite(items, trained)
    assert report.trained_on == (TrainedItem(item="a", training_row=3, similarity=1.0),)
    assert [(found.item, found.training_row) for found in report.nearly_trained_on] == [("b", 2)]
    assert not report.is_clean
    assert check_suite(items, [trained_row(SYSTEM, user(LONG)), trained_row(user("Who?"))]).is_clean


def test_items_that_were_not_compared_are_counted_and_not_clean() -> None:
    words = [f"word{n}" for n in range(40)]
    asked = [" ".join([*words[:9], f"a{n}", *words[10:19], f"b{n}", *words[20:]]) for n in range(6)]
    items = [item(text, text) for text in asked]
    assert check_suite(items, budget=15).is_clean
    report = check_suite(items, budget=10)
    assert (report.not_compared, report.has_faults, report.is_clean) == (
        1,
        False,
        False,
    )  # the sixth one
    report = check_suite(items[:2], [trained_row(user(text)) for text in asked[2:]], budget=3)
    assert (report.not_compared, report.not_compared_with_training, report.is_clean) == (
        0,
        2,
        False,
    )


def test_a_duplicate_is_not_also_reported_as_a_near_duplicate() -> None:
    report = check_suite([item("a", LONG), item("b", LONG)])
    assert (len(report.duplicates), len(report.near_duplicates)) == (1, 0)


def test_clusters_lower_what_a_group_can_detect() -> None:
    alone = [item(str(n), f"What is {n}?") for n in range(40)]
    paired = [item(str(n), f"What is {n}?", cluster=str(n // 2)) for n in range(40)]
    (free,), (bound,) = check_suite(alone).groups, check_suite(paired).groups
    assert (free.independent, free.clusters) == (40, 0)
    assert (bound.independent, bound.clusters) == (20, 20)
    assert bound.detectable_loss > free.detectable_loss


def test_an_exact_duplicate_does_not_add_power() -> None:
    items = [item(str(n), f"What is {n % 20}?") for n in range(40)]
    (group,) = check_suite(items).groups
    assert (group.items, group.independent) == (20, 20)
    (other,) = check_suite([*items[:20], item("a", "what  is 1?")]).groups
    assert other.items == 21  # the gate counts it, so it must be removed


def test_lengths_are_counted_in_words_and_tokens() -> None:
    (group,) = check_suite([item("a", "one two"), item("b", "three")], count_tokens=len).groups
    assert (group.prompt_words.least, group.prompt_words.median, group.prompt_words.most) == (
        1, 1.5, 2,
    )  # fmt: skip
    assert group.prompt_tokens
    assert group.prompt_tokens.most == len("one two")


def test_checking_a_suite_imports_nothing_heavy() -> None:
    code = (
        "import sys, phi3_lora_qa.data.suite_check, phi3_lora_qa.cli.suite; "
        "assert not {'torch', 'numpy', 'scipy', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
