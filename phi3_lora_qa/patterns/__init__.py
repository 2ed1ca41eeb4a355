"""Internal: matches untrusted regular expressions in linear time.

peft passes ``target_modules``, ``rank_pattern`` and others to Python's `re`, where ``(a|a)*b``
takes time that doubles with each character; a pattern in a suite could block the gate in the same
way. This package parses the syntax that real configurations use into a nondeterministic finite
automaton and simulates its states in parallel (Thompson, "Regular expression search algorithm",
CACM 11(6), 1968).

A look-around is a condition on a position. It is evaluated for all positions before the pattern
that contains it: a look-behind forwards, a look-ahead backwards from the end of the text. Back
references and conditions have no such automaton and are rejected.
"""

import itertools

from phi3_lora_qa.patterns.backtracking import Backtracking
from phi3_lora_qa.patterns.budget import Budget as Budget
from phi3_lora_qa.patterns.simulation import Place, Simulation, reverse
from phi3_lora_qa.patterns.syntax import Look, Parser, State, is_word
from phi3_lora_qa.patterns.syntax import PatternError as PatternError

MAX_LENGTH = 8192


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
        self._ends = parser.parse()
        self._budget.spend(10 * len(self._states) + parser.work)
        self._looks = parser.looks
        self._simulation = Simulation(self._states, *self._ends, self._budget)
        self._look_simulations = [self._simulate(look) for look in self._looks]

    def fullmatch(self, text: str) -> bool:
        """Whether the pattern matches the whole text."""
        places = self._places(text)
        found = list(self._simulation.accepts(text, places, anywhere=False))
        return len(found) == len(places) and found[-1]

    def match(self, text: str) -> bool:
        """Whether the pattern matches at the start of the text."""
        return any(self._simulation.accepts(text, self._places(text), anywhere=False))

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text.

        As in every method here, ``^`` matches only at the start of the text and ``$`` only at its
        end, not at line breaks.
        """
        return any(self._simulation.accepts(text, self._places(text), anywhere=True))

    def steps_in_re(self, text: str, limit: int, *, whole: bool) -> int:
        """Return how many steps Python's `re` takes for ``fullmatch`` (``whole``) or ``match``.

        The result is an estimate: the steps of a backtracking search through this automaton. The
        search ends when there are more than ``limit``.
        """
        search = Backtracking(self._states, self._looks, text, self._places(text), limit)
        return search.count(*self._ends, whole=whole)

    def _simulate(self, look: Look) -> Simulation:
        ends = (look.start, look.accept)
        if look.width is not None:
            return Simulation(self._states, *ends, self._budget)
        self._budget.spend(len(self._states))
        return Simulation(*reverse(self._states, *ends), self._budget)

    def _places(self, text: str) -> list[Place]:
        """Return what conditions see at each position, with the truth of every look-around.

        A look-around has a higher index than those that it contains, so these are known before.
        """
        kinds = ["", *("w" if is_word(char) else "o" for char in text), ""]
        around = list(itertools.pairwise(kinds))
        places = [Place(*pair) for pair in around]
        known: list[list[bool]] = [[] for _ in places]
        for look, simulation in zip(self._looks, self._look_simulations, strict=True):
            step = 1 if look.width is not None else -1
            found = simulation.accepts(text[::step], places[::step], anywhere=True)
            for truths, is_found in zip(known, list(found)[::step], strict=True):
                truths.append(is_found != look.is_negated)
            self._budget.spend(len(places))
            places = [
                Place(*pair, looks=tuple(truths))
                for pair, truths in zip(around, known, strict=True)
            ]
        return places
