"""Regular expressions from strangers, matched in linear time.

PEFT hands ``target_modules``, ``rank_pattern`` and others to Python's `re`, where ``(a|a)*b`` takes
time that doubles with each letter, and a pattern in a suite could hold up a gate as well. Here the
part of the syntax that real configurations use is parsed into an automaton whose states are
followed side by side (Thompson, "Regular expression search algorithm", CACM 11(6), 1968).
Look-around, back references and inline flags are refused: they have no such automaton.
"""

from dataclasses import dataclass

from phi3_lora_qa.patterns.syntax import Parser, PatternError, Place, State, is_word

__all__ = ["Budget", "Pattern", "PatternError"]

MAX_LENGTH = 8192
MAX_STEPS = 2_000_000


@dataclass(slots=True)
class Budget:
    """How many steps all patterns that share this may take together: some seconds' worth."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Take from what is left.

        Raises:
            PatternError: Nothing is left.
        """
        self.left -= steps
        if self.left < 0:
            raise PatternError("the patterns take too long to match")


class Pattern:
    """A compiled pattern that answers as the functions of ``re`` would, yes or no."""

    def __init__(self, text: str, budget: Budget | None = None) -> None:
        if len(text) > MAX_LENGTH:
            raise PatternError(f"a pattern of {len(text)} characters is too long")
        self.text = text
        self._states: list[State] = []
        self._budget = budget or Budget()
        self._budget.spend(10 * len(text))
        parser = Parser(text, self._states)
        self._start, self._accept = parser.parse()
        self._budget.spend(10 * len(self._states) + parser.work)
        self._closures: dict[tuple[frozenset[int], str, str], frozenset[int]] = {}
        self._moves: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text is in the pattern's language."""
        return self._run(text, whole=True)

    def match(self, text: str) -> bool:
        """Whether some beginning of the text is in the pattern's language."""
        return self._run(text, whole=False)

    def search(self, text: str) -> bool:
        """Whether some part of the text is in the pattern's language.

        As in every method here, ``^`` is the beginning of the text and ``$`` its end, whatever
        line breaks it holds.
        """
        return self._run(text, whole=False, anywhere=True)

    def _run(self, text: str, *, whole: bool, anywhere: bool = False) -> bool:
        self._budget.spend(len(text))
        start = frozenset((self._start,))
        kinds = ["", *("w" if is_word(char) else "o" for char in text), ""]
        current = self._closure(start, kinds[0], kinds[1])
        for index, char in enumerate(text):
            if not whole and self._accept in current:
                return True
            moved = self._move(current, char) | start if anywhere else self._move(current, char)
            if not moved:
                return False
            current = self._closure(moved, kinds[index + 1], kinds[index + 2])
        return self._accept in current

    def _move(self, states: frozenset[int], char: str) -> frozenset[int]:
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

    def _closure(self, states: frozenset[int], before: str, after: str) -> frozenset[int]:
        """Add every state that is reached without a letter, between these two kinds of letter."""
        key = (states, before, after)
        if key not in self._closures:
            seen, todo = set(states), list(states)
            while todo:
                state = self._states[todo.pop()]
                if state.test is None and _holds(state.place, before, after):
                    fresh = [target for target in state.out if target not in seen]
                    seen.update(fresh)
                    todo.extend(fresh)
            self._budget.spend(len(seen))
            self._closures[key] = frozenset(seen)
        return self._closures[key]


def _holds(place: Place | None, before: str, after: str) -> bool:
    match place:
        case Place.START:
            return before == ""
        case Place.END:
            return after == ""
        case Place.BORDER:
            return (before == "w") != (after == "w")
        case _:
            return True
