"""Copies and questions that were trained on are found, and only those."""

import subprocess
import sys

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.suite_check import Conversation, Pair, check_suite

LONG = "Please tell me which of the seven days of the week comes before the day of rest"
SYSTEM = Message(role="system", content="Answer as a pirate would.")


def user(text: str) -> Message:
    return Message(role="user", content=text)


def item(name: str, text: str, *before: Message, group: str = "target", cluster: str = "") -> Item:
    return Item(
        id=name, prompt=(*before, user(text)), reference="Six", group=group, cluster=cluster
    )


def taught(*turns: Message) -> Conversation:
    return (*turns, Message(role="assistant", content="Seven"))


def test_a_sound_suite_has_nothing_to_mend() -> None:
    items = [item("a", "How many legs has a spider?"), item("b", "How many legs has an ant?")]
    report = check_suite(items, [taught(user("How many legs has a bee?"))])
    assert report.sound
    assert (report.not_compared, report.not_compared_with_training) == (0, 0)
    assert [(group.name, group.items) for group in report.groups] == [("target", 2)]


def test_the_same_question_in_other_case_and_spacing_is_a_duplicate() -> None:
    items = [item("a", "How  many?"), item("b", "how many?\n", group="general"), item("c", "Why?")]
    report = check_suite(items)
    assert report.duplicates == (Pair(item="b", like="a", likeness=1.0),)
    assert not report.sound


def test_a_question_that_is_nearly_the_same_is_a_near_duplicate_unless_a_cluster_says_so() -> None:
    first, second = item("a", LONG), item("b", f"{LONG} now")
    (pair,) = check_suite([first, second]).near_duplicates
    assert (pair.item, pair.like) == ("b", "a")
    assert 0.8 <= pair.likeness < 1.0
    together = [item("a", LONG, cluster="week"), item("b", f"{LONG} now", cluster="week")]
    assert check_suite(together).sound
    apart = [item("a", LONG, cluster="week"), item("b", f"{LONG} now", cluster="day")]
    assert not check_suite(apart).sound
    assert check_suite([first, item("b", f"{LONG} now", SYSTEM)]).sound


def test_what_was_trained_on_is_found_word_for_word_and_nearly() -> None:
    items = [item("a", "How many?"), item("b", LONG), item("c", "Why?")]
    trained = [taught(user("Who?")), taught(user(f"{LONG} now")), taught(user("HOW MANY?"))]
    report = check_suite(items, trained)
    assert report.trained_on == (Pair(item="a", like="training row 3", likeness=1.0),)
    assert [(pair.item, pair.like) for pair in report.nearly_trained_on] == [
        ("b", "training row 2")
    ]
    assert not report.sound
    assert check_suite(items, [taught(SYSTEM, user(LONG)), taught(user("Who?"))]).sound


def test_what_was_not_compared_is_counted_and_is_not_sound() -> None:
    words = [f"word{n}" for n in range(40)]
    asked = [" ".join([*words[:9], f"a{n}", *words[10:19], f"b{n}", *words[20:]]) for n in range(6)]
    items = [item(text, text) for text in asked]
    assert check_suite(items, budget=15).sound
    report = check_suite(items, budget=10)
    assert (report.not_compared, report.found, report.sound) == (1, False, False)  # the sixth one
    report = check_suite(items[:2], [taught(user(text)) for text in asked[2:]], budget=3)
    assert (report.not_compared, report.not_compared_with_training, report.sound) == (0, 2, False)


def test_a_copy_is_told_once_and_not_again_as_near() -> None:
    report = check_suite([item("a", LONG), item("b", LONG)])
    assert (len(report.duplicates), len(report.near_duplicates)) == (1, 0)


def test_clusters_lower_what_a_group_can_detect() -> None:
    alone = [item(str(n), f"What is {n}?") for n in range(40)]
    paired = [item(str(n), f"What is {n}?", cluster=str(n // 2)) for n in range(40)]
    (free,), (bound,) = check_suite(alone).groups, check_suite(paired).groups
    assert (free.independent, free.clusters) == (40, 0)
    assert (bound.independent, bound.clusters) == (20, 20)
    assert bound.detectable_loss > free.detectable_loss


def test_an_exact_copy_adds_nothing_to_what_can_be_detected() -> None:
    items = [item(str(n), f"What is {n % 20}?") for n in range(40)]
    (group,) = check_suite(items).groups
    assert (group.items, group.independent) == (20, 20)
    (other,) = check_suite([*items[:20], item("a", "what  is 1?")]).groups
    assert other.items == 21  # the gate counts it, and so it is told to be taken out


def test_lengths_are_counted_in_words_and_as_told() -> None:
    (group,) = check_suite([item("a", "one two"), item("b", "three")], count_tokens=len).groups
    assert (group.prompt_words.least, group.prompt_words.median, group.prompt_words.most) == (
        1, 1.5, 2,
    )  # fmt: skip
    assert group.prompt_tokens
    assert group.prompt_tokens.most == len("one two")


def test_looking_a_suite_over_loads_nothing_heavy() -> None:
    code = (
        "import sys, phi3_lora_qa.data.suite_check, phi3_lora_qa.cli.suite; "
        "assert not {'torch', 'numpy', 'scipy', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
