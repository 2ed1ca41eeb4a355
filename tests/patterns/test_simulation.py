from phi3_lora_qa.patterns.budget import Budget
from phi3_lora_qa.patterns.simulation import Place, Simulation, is_satisfied, reverse
from phi3_lora_qa.patterns.syntax import Anchor, Parser, State


def ends(pattern: str, text: str, *, anywhere: bool = False, backwards: bool = False) -> list[bool]:
    states: list[State] = []
    start, accept = Parser(pattern, states).parse()
    found: tuple[list[State], int, int] = (states, start, accept)
    if backwards:
        found, text = reverse(states, start, accept), text[::-1]
    places = [Place("o", "o")] * (len(text) + 1)
    return list(Simulation(*found, Budget()).accepts(text, places, anywhere=anywhere))


def test_the_ends_of_matches_are_found_in_order() -> None:
    assert ends("a+", "aab") == [False, True, True]
    assert ends("a+", "baa", anywhere=True) == [False, False, True, True]


def test_a_simulation_stops_where_nothing_can_match_any_more() -> None:
    assert ends("ab", "ccccccccc") == [False]


def test_backwards_the_starts_of_matches_are_found() -> None:
    assert ends("ab", "abab", anywhere=True, backwards=True) == [False, False, True, False, True]


def test_a_condition_depends_on_the_place() -> None:
    assert is_satisfied(State(anchor=Anchor.START), Place("", "w"))
    assert not is_satisfied(State(anchor=Anchor.END), Place("w", "w"))
    assert is_satisfied(State(anchor=Anchor.WORD_BOUNDARY), Place("w", "o"))
    assert is_satisfied(State(look=1), Place("o", "o", looks=(False, True)))
    assert is_satisfied(State(), Place("o", "o"))
