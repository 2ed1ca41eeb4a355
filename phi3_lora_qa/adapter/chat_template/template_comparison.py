"""Compares the output of two chat templates on conversations that are generated to differ.

A conversation that takes a new branch is kept, and changed towards what the templates compared in
it. Conditions that need several things at once are thus met one by one. The child that
renders templates imports this module; see `template_rendering_child`.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from phi3_lora_qa.adapter.chat_template.branch_tracing import TracedTemplate
from phi3_lora_qa.adapter.chat_template.content_conditions import own_texts, triggers
from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    TemplateInput,
    Vocabulary,
    non_text_inputs,
    ordinary_inputs,
    small_changes,
    vocabulary_inputs,
    with_content_parts,
    with_plain_text,
)
from phi3_lora_qa.adapter.chat_template.conversation_mutation import mutations
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock
from phi3_lora_qa.adapter.chat_template.tolerated_differences import ToleratedKind, tolerated_kind

SECONDS = 1.4
"""CPU time of the child in seconds, after which a comparison is stopped."""

MAX_VOCABULARY_INPUTS, MAX_INPUTS, MAX_MUTATIONS = 1600, 3200, 80
MAX_WORK = 500_000  # conversations times conditions, to which the time is proportional
_SHOWN, _CONTEXT, _MAX_SUMMARY, _MAX_TRIGGERS = 50, 12, 160, 16


class TimeLimitError(Exception):
    """The comparison took too long."""


class Difference(Exception):  # noqa: N818 - not an error, but the result of the search
    """The outputs of the templates differ."""

    def __init__(self, case: TemplateInput, ours: str | None, theirs: str | None) -> None:
        self.case, self.ours, self.theirs = case, ours, theirs


def compare(
    ours: str, theirs: str, tokens: Mapping[str, str], clock: Clock, until: float = SECONDS
) -> dict[str, Any]:
    """Compare the outputs of two templates.

    Args:
        ours: The text of the template.
        theirs: The text of the template that it should be equivalent to.
        tokens: Texts of special tokens by name.
        clock: The clock of both.
        until: The CPU time of the process, in seconds, at which the comparison is stopped.

    Returns:
        ``conversation``, ``ours`` and ``theirs`` if prompts differ: a summary of the conversation,
        and the outputs around the first difference (None: no output). Else ``same_form``,
        ``conversations`` (their number), ``branches``; ``uncovered_lines``: the lines of our
        conditions of which an outcome was not seen, except those that their template also has;
        ``unrendered``: our own texts that no output contained; and ``tolerated``: by kind, the
        first difference that affects no prompt of ordinary turns (see `tolerated_differences`).
        In any case ``triggers``, which their template does not have, with ``line`` and ``value``.

    Raises:
        TimeLimitError: It took too long.
        Exception: A template cannot be parsed, or exceeds a limit.
    """
    pair = _Pair(TracedTemplate(ours, clock), TracedTemplate(theirs, clock), clock, until)
    try:
        _search(pair, tokens)
    except Difference as found:
        return {**_description(found), "triggers": _own_triggers(pair)}
    first, second = pair.ours.trace, pair.theirs.trace
    shared = {condition.form for condition in second.uncovered()}
    lines = sorted({c.line for c in first.uncovered() if c.form not in shared})
    return {
        "same_form": pair.ours.form == pair.theirs.form,
        "conversations": pair.count,
        "branches": len(first.conditions),
        "uncovered_lines": lines[:8],
        "unrendered": sorted(text[:_SHOWN] for text in pair.unrendered)[:8],
        "tolerated": {str(k): _description(found) for k, found in pair.tolerated.items()},
        "triggers": _own_triggers(pair),
    }


def _own_triggers(pair: "_Pair") -> list[dict[str, Any]]:
    known = {trigger.value for trigger in triggers(pair.theirs.tree)}
    own = [t for t in triggers(pair.ours.tree) if t.value not in known]
    return [{"line": t.line, "value": t.value[:_SHOWN]} for t in own[:_MAX_TRIGGERS]]


class _Pair:
    """Two templates that get the same conversations."""

    def __init__(
        self, ours: TracedTemplate, theirs: TracedTemplate, clock: Clock, until: float
    ) -> None:
        self.ours, self.theirs, self.clock, self.until = ours, theirs, clock, until
        self.count = 0
        self.tolerated: dict[ToleratedKind, Difference] = {}
        self.unrendered = set(own_texts(ours.tree, theirs.tree))
        self._seen: set[bytes] = set()

    def run(self, case: TemplateInput) -> bool:
        """Render a conversation with both; return whether one of them took a new branch.

        Raises:
            Difference: The outputs differ.
        """
        key = case.key()
        if key in self._seen:
            return False
        self._seen.add(key)
        self.count += 1
        are_equal = self._are_equal(case, untraced=False)
        has_new = self.ours.trace.has_new or self.theirs.trace.has_new
        if not are_equal or has_new:  # only the untraced output counts
            hints = self.ours.trace.hints, self.theirs.trace.hints
            if not self._are_equal(case, untraced=True):
                self._report(Difference(case, *self.texts(case, untraced=True)))
            self.ours.trace.hints, self.theirs.trace.hints = hints
        return has_new

    def run_as_served(self, case: TemplateInput, *, ours_gets_parts: bool) -> None:
        """Compare the outputs if a server passes parts to one template and texts to the other."""
        self.clock.fixed_text, self.clock.choice = None, 0
        mine, other = (with_content_parts(case), case)[:: 1 if ours_gets_parts else -1]
        first = self.ours.text(mine.variables, untraced=True)
        second = self.theirs.text(other.variables, untraced=True)
        if first != second:
            self._report(Difference(case, first, second))

    def _report(self, found: Difference) -> None:
        """Keep a difference that affects no ordinary prompt, and raise any other one."""
        kind = tolerated_kind(found.case, found.ours, found.theirs, self._untraced)
        if kind is None:
            raise found
        self.tolerated.setdefault(kind, found)

    def _untraced(self, case: TemplateInput) -> tuple[str | None, str | None]:
        return self.texts(case, untraced=True)

    def is_covered(self) -> bool:
        return (
            not self.unrendered and self.ours.trace.is_covered() and self.theirs.trace.is_covered()
        )

    def _are_equal(self, case: TemplateInput, *, untraced: bool) -> bool:
        ours, theirs = self.texts(case, untraced=untraced)
        if ours == theirs:
            return True
        if not case.has_non_text:
            return False
        plain = with_plain_text(case)
        return ours is None or any(ours == self.texts(c, untraced=True)[1] for c in plain)

    def texts(self, case: TemplateInput, *, untraced: bool) -> tuple[str | None, str | None]:
        if time.process_time() > self.until:
            raise TimeLimitError
        self.clock.fixed_text, self.clock.choice = case.clock_text, case.choice
        ours = self.ours.text(case.variables, untraced=untraced)
        if ours and self.unrendered:
            folded = ours.casefold()
            self.unrendered -= {t for t in self.unrendered if t.casefold() in folded}
        return ours, self.theirs.text(case.variables, untraced=untraced)


def _search(pair: _Pair, tokens: Mapping[str, str]) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(pair.ours.tree)
    vocabulary.add(pair.theirs.tree)
    queue: deque[TemplateInput] = deque()

    def run_all(cases: Iterable[TemplateInput]) -> None:
        for case in cases:
            if pair.run(case):
                queue.append(case)

    ours_gets_parts, theirs_gets_parts = wants_parts(pair.ours.tree), wants_parts(pair.theirs.tree)
    if ours_gets_parts != theirs_gets_parts:
        for case in ordinary_inputs(tokens):
            pair.run_as_served(case, ours_gets_parts=ours_gets_parts)
    conditions = len(pair.ours.trace.conditions) + len(pair.theirs.trace.conditions)
    end = min(MAX_INPUTS, MAX_WORK // (60 + conditions))
    run_all(ordinary_inputs(tokens))
    run_all(non_text_inputs(tokens))
    run_all(islice(vocabulary_inputs(vocabulary, tokens), min(MAX_VOCABULARY_INPUTS, end // 2)))
    while queue and pair.count < end and not pair.is_covered():
        case = queue.popleft()
        run_all(islice(_changes(pair, case, vocabulary), end - pair.count))


def _changes(pair: _Pair, case: TemplateInput, vocabulary: Vocabulary) -> Iterator[TemplateInput]:
    pair.texts(case, untraced=False)
    hints, clock_text = [*pair.ours.trace.hints, *pair.theirs.trace.hints], pair.clock.last_text
    for hint in hints:
        yield from islice(mutations(case, hint, clock_text), MAX_MUTATIONS)
    yield from small_changes(case, vocabulary)


def wants_parts(tree: Any) -> bool:
    """Whether a template iterates over the parts of a content: vLLM then passes no plain texts."""
    from jinja2 import nodes

    def is_content(node: Any) -> bool:
        while isinstance(node, nodes.Filter | nodes.Test) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        key = getattr(node, "attr", None) or getattr(getattr(node, "arg", 0), "value", None)
        return key == "content" or (isinstance(node, nodes.Name) and node.name in aliases)

    aliases: set[str] = set()
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and is_content(assign.node):
            aliases.add(assign.target.name)
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _description(found: Difference) -> dict[str, Any]:
    ours, theirs = found.ours or "", found.theirs or ""
    pairs = zip(ours, theirs, strict=False)
    shorter = min(len(ours), len(theirs))
    position = next((n for n, (a, b) in enumerate(pairs) if a != b), shorter)
    start, end = max(position - _CONTEXT, 0), position + _SHOWN
    return {
        "conversation": _summary(found.case)[:_MAX_SUMMARY],
        "ours": None if found.ours is None else ours[start:end],
        "theirs": None if found.theirs is None else theirs[start:end],
    }


def _summary(case: TemplateInput) -> str:
    messages = case.messages
    shown = messages if len(messages) < 6 else [*messages[:2], *messages[-2:]]
    turns = [f"{_shortened(m.get('role'))}: {_shortened(m.get('content'))}" for m in shown]
    if len(shown) < len(messages):
        turns.insert(2, f"… {len(messages) - 4} messages …")
    fields = {k: v for m in messages for k, v in m.items() if k not in ("role", "content")}
    extra = {
        k: v for k, v in case.variables.items() if k != "messages" and not k.endswith("_token")
    }
    values = {k: v for k, v in {**fields, **extra}.items() if v is not None and v is not False}
    settings = [f"{k}={_shortened(v)}" for k, v in values.items()]
    settings += [] if case.clock_text is None else [f"the date {_shortened(case.clock_text)}"]
    return "; ".join((" | ".join(turns), *settings))


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:24]}… ({len(text)} characters)"
