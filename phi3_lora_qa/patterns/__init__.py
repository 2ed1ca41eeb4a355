"""Internal: matches untrusted regular expressions in linear time.

peft passes ``target_modules``, ``rank_pattern`` and others to Python's `re`, where ``(a|a)*b``
takes time that doubles with each character; a pattern in a suite could block the gate in the same
way. This package parses the syntax that real configurations use into a nondeterministic finite
automaton and simulates its states in parallel (Thompson, "Regular expression search algorithm",
CACM 11(6), 1968). Look-around, back references and inline flags have no such automaton and are
rejected.
"""

from dataclasses import dataclass

from phi3_lora_qa.patterns.syntax import Anchor, Parser, State, is_word
from phi3_lora_qa.patterns.syntax import PatternError as PatternError

MAX_LENGTH = 8192
MAX_STEPS = 2_000_000


@dataclass(slots=True)
class Budget:
    """The number of steps that all patterns sharing it may take together: some seconds."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Spend some of the steps that are left.

        Raises:
            PatternError: No steps are left.
        """
        self.left -= steps
        if self.left < 0:
            raise PatternError("the patterns take too long to match")


class Pattern:
    """A compiled pattern; its methods return whether the functions of ``re`` would match."""

    def __init__(self, text: str, budget: Budget | None = None) -> None:
        if len(text) > MAX_LENGTH:
            raise PatternError(
                f"the pattern is too long: {len(text)} characters, at most {MAX_LENGTH} are allowed"
            )
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
        """Whether the pattern matches the whole text."""
        return self._run(text, whole=True)

    def match(self, text: str) -> bool:
        """Whether the pattern matches at the start of the text."""
        return self._run(text, whole=False)

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text.

        As in every method here, ``^`` matches only at the start of the text and ``$`` only at its
        end, not at line breaks.
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
        """Add the states that are reachable at a position, given the character kinds around it."""
        key = (states, before, after)
        if key not in self._closures:
            seen, todo = set(states), list(states)
            while todo:
                state = self._states[todo.pop()]
                if state.test is None and _anchor_matches(state.anchor, before, after):
                    added = [target for target in state.out if target not in seen]
                    seen.update(added)
                    todo.extend(added)
            self._budget.spend(len(seen))
            self._closures[key] = frozenset(seen)
        return self._closures[key]


def _anchor_matches(anchor: Anchor | None, before: str, after: str) -> bool:
    match anchor:
        case Anchor.START:
            return before == ""
        case Anchor.END:
            return after == ""
        case Anchor.WORD_BOUNDARY:
            return (before == "w") != (after == "w")
        case _:
            return True
