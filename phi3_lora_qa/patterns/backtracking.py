"""Estimates how long Python's `re` takes on a pattern, by the number of its backtracking steps.

A library that uses `re` on an untrusted pattern can run for years. The automaton of the pattern is
searched in the way of `re`: one path at a time, and again from the last choice where a path fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.patterns.simulation import Place, is_satisfied
from phi3_lora_qa.patterns.syntax import Look, State

_NONE: frozenset[int] = frozenset()


@dataclass(slots=True)
class Backtracking:
    """A backtracking search through an automaton, which ends beyond ``limit`` steps.

    Attributes:
        states: The automaton.
        looks: Its look-arounds.
        text: The text to match.
        places: What conditions see at each position.
        limit: The number of steps after which the search ends.
        steps: The number of steps so far.
    """

    states: Sequence[State]
    looks: Sequence[Look]
    text: str
    places: Sequence[Place]
    limit: int
    steps: int = 0

    def count(self, start: int, accept: int, position: int = 0, *, whole: bool) -> int:
        """Return the number of steps to the first match from a position, or to the last failure.

        Args:
            start: The first state.
            accept: The accepting state.
            position: Where the match starts.
            whole: Whether the match must end at the end of the text.
        """
        # The states since the last character: like in re, a loop that consumes nothing ends.
        todo = [(start, position, _NONE)]
        while todo and self.steps <= self.limit:
            self.steps += 1
            index, position, seen = todo.pop()
            state = self.states[index]
            if index == accept and (not whole or position == len(self.text)):
                break
            if state.test is None:
                self._look(state, position)
                if is_satisfied(state, self.places[position]):
                    seen |= {index}
                    todo.extend((o, position, seen) for o in reversed(state.out) if o not in seen)
            elif position < len(self.text) and state.test(self.text[position]):
                todo.extend((out, position + 1, _NONE) for out in state.out)
        return self.steps

    def _look(self, state: State, position: int) -> None:
        """Count the steps of a look-around."""
        if state.look is not None:
            look = self.looks[state.look]
            first = position - (look.width or 0)
            if first >= 0:
                self.count(look.start, look.accept, first, whole=False)
