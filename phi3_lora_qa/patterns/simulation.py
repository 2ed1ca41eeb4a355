"""Simulates an automaton on a text: all of its states in parallel, one character at a time.

The time is linear in the text, whatever the pattern: each set of states is followed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phi3_lora_qa.patterns.budget import Budget
from phi3_lora_qa.patterns.syntax import Anchor, State

States = frozenset[int]


@dataclass(frozen=True, slots=True)
class Place:
    """What conditions see at a position: the kinds of the characters around it, and look-arounds.

    A kind is ``w`` for a character of a word, ``o`` for another one, and empty at an end of the
    text. ``looks`` has the truth of each look-around that is already known.
    """

    before: str
    after: str
    looks: tuple[bool, ...] = ()


class Simulation:
    """The states of an automaton, with every set of states that was reached so far."""

    def __init__(self, states: Sequence[State], start: int, accept: int, budget: Budget) -> None:
        self._states, self._accept, self._budget = states, accept, budget
        self._start = frozenset((start,))
        self._closures: dict[tuple[States, Place], States] = {}
        self._moves: dict[tuple[States, str], States] = {}

    def accepts(self, text: str, places: Sequence[Place], *, anywhere: bool) -> Iterator[bool]:
        """Yield whether a match ends at each position, in order; stop if none can end later.

        Args:
            text: The characters.
            places: One for each position: one more than characters.
            anywhere: Whether a match may start at any position, or only at the first.
        """
        self._budget.spend(len(text))
        current = self._closure(self._start, places[0])
        yield self._accept in current
        for char, place in zip(text, places[1:], strict=True):
            moved = self._move(current, char)
            if anywhere:
                moved |= self._start
            if not moved:
                return
            current = self._closure(moved, place)
            yield self._accept in current

    def _move(self, states: States, char: str) -> States:
        key = (states, char)
        if key not in self._moves:
            self._budget.spend(len(states))
            moved = set[int]()
            for index in states:
                state = self._states[index]
                if state.test is not None and state.test(char):
                    moved.update(state.out)
            self._moves[key] = frozenset(moved)
        return self._moves[key]

    def _closure(self, states: States, place: Place) -> States:
        """Add the states that are reachable without a character."""
        key = (states, place)
        if key not in self._closures:
            seen, todo = set(states), list(states)
            while todo:
                state = self._states[todo.pop()]
                if state.test is None and is_satisfied(state, place):
                    added = [target for target in state.out if target not in seen]
                    seen.update(added)
                    todo.extend(added)
            self._budget.spend(len(seen))
            self._closures[key] = frozenset(seen)
        return self._closures[key]


def is_satisfied(state: State, place: Place) -> bool:
    """Whether the condition of a state is true at a place; a state without one has none."""
    if state.look is not None:
        return place.looks[state.look]
    match state.anchor:
        case Anchor.START:
            return place.before == ""
        case Anchor.END:
            return place.after == ""
        case Anchor.WORD_BOUNDARY:
            return (place.before == "w") != (place.after == "w")
        case _:
            return True


def reverse(states: Sequence[State], start: int, accept: int) -> tuple[list[State], int, int]:
    """Return the automaton that reads the text backwards, with its start and accepting state.

    A state keeps its test or condition, and leads to the states that led to it. The accepting state
    is a new one behind the old start.
    """
    turned = [State(test=s.test, anchor=s.anchor, look=s.look) for s in states]
    for index, state in enumerate(states):
        for target in state.out:
            turned[target].out.append(index)
    turned.append(State())
    turned[start].out.append(len(states))
    return turned, accept, len(states)
