"""Parses a safe subset of Python's regular expressions into the states of an automaton."""

import re
import string
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

MAX_STATES = 4000
MAX_NESTING = 40
MAX_RANGES = 32
MAX_WORK = 100_000
"""Characters of sets that are parsed; those of a repeated set count each time."""

MAX_LOOKS = 32
_UNSUPPORTED = "back references, conditions, atomic groups and these flags are not supported"


class PatternError(ValueError):
    """The pattern is outside the supported syntax, or too large to match in bounded time."""


Test: TypeAlias = Callable[[str], bool]


class Anchor(Enum):
    """A condition on a position between two characters."""

    START = auto()
    END = auto()
    WORD_BOUNDARY = auto()


@dataclass(slots=True)
class State:
    """One state: it consumes a character (``test``), has a condition, or is an empty move.

    The condition is an anchor, or ``look``: the index of a look-around.
    """

    out: list[int] = field(default_factory=list)
    test: Test | None = None
    anchor: Anchor | None = None
    look: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """A look-around: the states of its inner pattern, and whether it is negated.

    ``width`` is the number of characters that a look-behind looks at; None for a look-ahead.
    """

    start: int
    accept: int
    is_negated: bool
    width: int | None = None


def is_word(char: str) -> bool:
    r"""Whether ``\w`` matches this character."""
    return char.isalnum() or char == "_"


_CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "w": is_word,
    "s": str.isspace,
    "D": lambda c: not c.isdecimal(),
    "W": lambda c: not is_word(c),
    "S": lambda c: not c.isspace(),
}
_ANCHORS = {"b": Anchor.WORD_BOUNDARY, "A": Anchor.START, "Z": Anchor.END}


@dataclass(slots=True)
class Parser:
    """A recursive descent parser; its methods return (first state, last state) of an automaton."""

    text: str
    states: list[State]
    position: int = 0
    nesting: int = 0
    work: int = 0
    names: dict[str, int] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    ignore_case: bool = False
    dot_all: bool = False

    def parse(self) -> tuple[int, int]:
        """Return the start state and the accepting state of the whole pattern.

        Raises:
            PatternError: The pattern is invalid, or uses unsupported syntax.
        """
        if flags := re.match(r"\(\?([isu]+)\)", self.text):
            self.position = flags.end()
            self._set_flags(flags[1])
        part = self._alternatives()
        if self.position != len(self.text):
            raise PatternError("unbalanced parenthesis")
        return part

    def _set_flags(self, flags: str) -> None:
        self.ignore_case |= "i" in flags
        self.dot_all |= "s" in flags

    def _add(
        self, *, test: Test | None = None, anchor: Anchor | None = None, look: int | None = None
    ) -> int:
        if len(self.states) >= MAX_STATES:
            raise PatternError("the pattern is too large")
        self.states.append(State(test=test, anchor=anchor, look=look))
        return len(self.states) - 1

    def _count_work(self, steps: int) -> None:
        self.work += steps
        if self.work > MAX_WORK:
            raise PatternError("the pattern is too large")

    def _link(self, origin: int, target: int) -> None:
        self.states[origin].out.append(target)

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _alternatives(self) -> tuple[int, int]:
        first, last = self._add(), self._add()
        while True:
            head, tail = self._sequence()
            self._link(first, head)
            self._link(tail, last)
            if self._peek() != "|":
                return first, last
            self.position += 1

    def _sequence(self) -> tuple[int, int]:
        first = last = self._add()
        while self._peek() not in ("", "|", ")"):
            head, tail = self._repeated()
            self._link(last, head)
            last = tail
        return first, last

    def _repeated(self) -> tuple[int, int]:
        begin = self.position
        part = self._atom()
        end = self.position
        bounds = self._quantifier()
        if bounds is None:
            return part
        if self.states[part[0]].anchor is not None:
            raise PatternError("nothing to repeat")
        after = self.position
        low, high = bounds
        copies = [part]
        for _ in range(max(low, high or 0, 1) - 1):
            self.position = begin
            copies.append(self._atom())
            if self.position != end:
                raise PatternError("unsupported repetition")
        self.position = after
        return self._chain(copies, low, high)

    def _chain(self, copies: list[tuple[int, int]], low: int, high: int | None) -> tuple[int, int]:
        """Concatenate copies, with an exit after each copy that is optional."""
        first, last = self._add(), self._add()
        end = first
        for index, (head, tail) in enumerate(copies):
            if index >= low:
                self._link(end, last)
            if high == 0:
                return first, last
            self._link(end, head)
            end = tail
        if high is None:
            self._link(end, copies[-1][0])
        self._link(end, last)
        return first, last

    def _quantifier(self) -> tuple[int, int | None] | None:
        bounds: tuple[int, int | None]
        match self._peek():
            case "*":
                bounds = (0, None)
            case "+":
                bounds = (1, None)
            case "?":
                bounds = (0, 1)
            case "{":
                bounds = self._braces()
            case _:
                return None
        self.position += 1
        if self._peek() == "?":
            self.position += 1  # lazy: the same language
        if self._peek() in ("*", "+", "?", "{"):
            raise PatternError("repeated or possessive quantifier")
        return bounds

    def _braces(self) -> tuple[int, int | None]:
        close = self.text.find("}", self.position)
        low, comma, high = self.text[self.position + 1 : max(close, self.position)].partition(",")
        is_valid = all(
            len(t) <= 4 and (not t or (t.isdecimal() and t.isascii())) for t in (low, high)
        )
        if close < 0 or not is_valid or not (low or high):
            raise PatternError("a brace that is not a repetition")
        self.position = close
        minimum = int(low or 0)
        maximum = int(high) if high else (None if comma else minimum)
        if maximum is not None and maximum < minimum:
            raise PatternError("min repeat greater than max repeat")
        return minimum, maximum

    def _atom(self) -> tuple[int, int]:  # noqa: PLR0911 - one return per kind of atom
        char = self._peek()
        self.position += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._character(self._bracket())
            case ".":
                return self._character(_any if self.dot_all else _any_in_line)
            case "^":
                return self._anchored(Anchor.START)
            case "$":
                return self._anchored(Anchor.END)
            case "\\":
                escaped = self._take_escaped()
                if escaped in _ANCHORS:
                    return self._anchored(_ANCHORS[escaped])
                return self._character(_escape_test(escaped))
            case "*" | "+" | "?" | "{":
                raise PatternError("nothing to repeat")
            case _:
                ignored = self.ignore_case
                return self._character(_ignoring_case(re.escape(char)) if ignored else char.__eq__)

    def _group(self) -> tuple[int, int]:
        look = self._look_opening()
        flags = (self.ignore_case, self.dot_all)
        if not look and self._peek() == "?":
            self._group_opening()
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise PatternError("groups are nested too deeply")
        part = self._alternatives()
        self.nesting -= 1
        if self._peek() != ")":
            raise PatternError("missing )")
        self.position += 1
        self.ignore_case, self.dot_all = flags
        return self._look(part, look) if look else part

    def _look_opening(self) -> str:
        """Skip the start of a look-around and return it; empty if this is another group."""
        for opening in ("?=", "?!", "?<=", "?<!"):
            if self.text.startswith(opening, self.position):
                self.position += len(opening)
                return opening
        return ""

    def _group_opening(self) -> None:
        """Skip the start of a group: a name, flags, or the mark that it captures nothing."""
        rest = self.text[self.position :]
        if flags := re.match(r"\?([isu]*):", rest):
            self.position += flags.end()
            self._set_flags(flags[1])
            return
        name = rest[3 : rest.find(">")] if rest.startswith("?P<") and ">" in rest else ""
        if self.names.get(name, self.position) != self.position:  # not a repeat of one group
            raise PatternError("two groups have the same name")
        if not name.isidentifier():
            raise PatternError(_UNSUPPORTED)
        self.names[name] = self.position
        self.position += len(name) + 4

    def _look(self, part: tuple[int, int], opening: str) -> tuple[int, int]:
        if len(self.looks) >= MAX_LOOKS:
            raise PatternError("the pattern has too many look-arounds")
        width = self._width(part) if "<" in opening else None
        self.looks.append(Look(*part, is_negated="!" in opening, width=width))
        first, last = self._add(look=len(self.looks) - 1), self._add()
        self._link(first, last)
        return first, last

    def _width(self, part: tuple[int, int]) -> int:
        """Return the length of everything that a part matches.

        Raises:
            PatternError: The lengths differ, which Python's `re` rejects, too.
        """
        start, accept = part
        widths, todo = {start: 0}, [start]
        while todo:
            index = todo.pop()
            if index == accept:
                continue
            state = self.states[index]
            width = widths[index] + (state.test is not None)
            for target in state.out:
                if target not in widths:
                    todo.append(target)
                if widths.setdefault(target, width) != width:
                    raise PatternError("look-behind requires fixed-width pattern")
        return widths.get(accept, 0)

    def _character(self, test: Test) -> tuple[int, int]:
        first, last = self._add(test=test), self._add()
        self._link(first, last)
        return first, last

    def _anchored(self, anchor: Anchor) -> tuple[int, int]:
        first, last = self._add(anchor=anchor), self._add()
        self._link(first, last)
        return first, last

    def _take_escaped(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("bad escape at the end")
        self.position += 1
        return char

    def _bracket(self) -> Test:
        begin = self.position
        negated = self._peek() == "^"
        self.position += negated
        first = self.position
        characters, tests = set[str](), dict[str, Test]()
        while self._peek() != "]" or self.position == first:
            start = self.position
            character, test = self._member()
            if self._peek() == "-" and self.text[self.position + 1 : self.position + 2] != "]":
                self.position += 1
                high, _ = self._member()
                if not character or not high or character > high:
                    raise PatternError("bad character range")
                character, test = "", _range_test(character, high)
            if character:
                characters.add(character)
            else:
                tests[self.text[start : self.position]] = test
        self.position += 1
        if len(tests) > MAX_RANGES:
            raise PatternError("a character set has too many ranges")
        self._count_work(self.position - begin)
        if self.ignore_case:
            return _ignoring_case(self.text[begin - 1 : self.position])
        return lambda char: (
            (char in characters or any(test(char) for test in tests.values())) != negated
        )

    def _member(self) -> tuple[str, Test]:
        """Parse one member of a set: its character ("" for a character class) and its test."""
        char = self._peek()
        if char in ("", "["):
            raise PatternError("unsupported character set")
        self.position += 1
        if char != "\\":
            return char, char.__eq__
        escaped = self._take_escaped()
        return "" if escaped in _CLASSES else escaped, _escape_test(escaped)


def _any(char: str) -> bool:
    return True


def _any_in_line(char: str) -> bool:
    return char != "\n"


def _ignoring_case(one: str) -> Test:
    """Return the test of a pattern for one character, which `re` matches in constant time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matches = re.compile(one, re.IGNORECASE).fullmatch
    return lambda char: matches(char) is not None


def _range_test(low: str, high: str) -> Test:
    return lambda char: low <= char <= high


def _escape_test(char: str) -> Test:
    if char in _CLASSES:
        return _CLASSES[char]
    if char in string.punctuation:
        return char.__eq__
    raise PatternError(f"unsupported escape \\{char}")
