"""Two chat templates compared by what they write, over conversations drawn to part them.

A conversation that takes a branch which none has taken before is kept, and changed towards what the
templates compared in it: so conditions that need several things at once are met one by one.
Imported by the child that renders templates; see `template_rendering_child`.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from phi3_lora_qa.adapter.chat_template.branch_tracing import Watched
from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    Chat,
    Vocabulary,
    nearby,
    odd,
    ordinary,
    parts,
    plainly,
    sweep,
)
from phi3_lora_qa.adapter.chat_template.conversation_mutation import towards
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock

SECONDS = 1.4
"""Of the child's computing time, after which a comparison is given up."""

MOST_SWEPT, MOST_CHATS, MOST_CHANGES = 1600, 3200, 80
MOST_WORK = 500_000  # conversations by branches, as the time of both goes with them
_SHOWN, _BEFORE, _LONGEST = 50, 12, 160


class SlowError(Exception):
    """The comparison has taken too long."""


class Difference(Exception):  # noqa: N818 - not an error, but what is looked for
    """The templates write something else."""

    def __init__(self, chat: Chat, ours: str | None, theirs: str | None) -> None:
        self.chat, self.ours, self.theirs = chat, ours, theirs


def compare(
    ours: str, theirs: str, tokens: Mapping[str, str], clock: Clock, until: float = SECONDS
) -> dict[str, Any]:
    """Compare what two templates write.

    Args:
        ours: The text of one.
        theirs: The text of the other, which it is to be like.
        tokens: Texts of special tokens by name.
        clock: The clock of both.
        until: The process's computing time at which the comparison is given up.

    Returns:
        ``given``, ``ours`` and ``theirs`` where they differ: the conversation in short, and what
        they write from shortly before the first difference (None: nothing). Else ``same_form``,
        ``chats``, ``branches``, and ``missing``, the lines of ours where a branch was not taken,
        unless the other one has it, and did not take it either.

    Raises:
        SlowError: It took too long.
        Exception: A template cannot be read, or needs too much.
    """
    pair = _Pair(Watched(ours, clock), Watched(theirs, clock), clock, until)
    try:
        _search(pair, tokens)
    except Difference as found:
        return _told(found)
    first, second = pair.ours.watch, pair.theirs.watch
    known = {point.form for point in second.missing()}
    lines = sorted({point.line for point in first.missing() if point.form not in known})
    return {
        "same_form": pair.ours.form == pair.theirs.form,
        "chats": pair.count,
        "branches": len(first.points),
        "missing": lines[:8],
    }


class _Pair:
    """Two templates that are given the same."""

    def __init__(self, ours: Watched, theirs: Watched, clock: Clock, until: float) -> None:
        self.ours, self.theirs, self.clock, self.until = ours, theirs, clock, until
        self.count = 0
        self._seen: set[bytes] = set()

    def try_out(self, chat: Chat) -> bool:
        """Give both a conversation; return whether one of them took a branch for the first time.

        Raises:
            Difference: They do not write the same.
        """
        key = chat.key()
        if key in self._seen:
            return False
        self._seen.add(key)
        self.count += 1
        alike = self._are_alike(chat, plain=False)
        fresh = self.ours.watch.fresh or self.theirs.watch.fresh
        if not alike or fresh:  # what counts is what is written when nobody watches
            hints = self.ours.watch.hints, self.theirs.watch.hints
            if not self._are_alike(chat, plain=True):
                raise Difference(chat, *self._texts(chat, plain=True))
            self.ours.watch.hints, self.theirs.watch.hints = hints
        return fresh

    def served(self, chat: Chat, *, ours_in_parts: bool) -> None:
        """Compare what they write where a server gives one of them parts in place of texts."""
        self.clock.words, self.clock.pick = None, 0
        first = self.ours.text((parts(chat) if ours_in_parts else chat).names, plain=True)
        second = self.theirs.text((chat if ours_in_parts else parts(chat)).names, plain=True)
        if first != second:
            raise Difference(chat, first, second)

    def is_done(self) -> bool:
        return self.ours.watch.is_done() and self.theirs.watch.is_done()

    def _are_alike(self, chat: Chat, *, plain: bool) -> bool:
        ours, theirs = self._texts(chat, plain=plain)
        if ours == theirs:
            return True
        if not chat.is_odd:
            return False
        return ours is None or any(ours == self._texts(c, plain=True)[1] for c in plainly(chat))

    def _texts(self, chat: Chat, *, plain: bool) -> tuple[str | None, str | None]:
        if time.process_time() > self.until:
            raise SlowError
        self.clock.words, self.clock.pick = chat.words, chat.pick
        return self.ours.text(chat.names, plain=plain), self.theirs.text(chat.names, plain=plain)


def _search(pair: _Pair, tokens: Mapping[str, str]) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(pair.ours.tree)
    vocabulary.add(pair.theirs.tree)
    kept: deque[Chat] = deque()

    def follow(chats: Iterable[Chat]) -> None:
        for chat in chats:
            if pair.try_out(chat):
                kept.append(chat)

    ours_in_parts, theirs_in_parts = wants_parts(pair.ours.tree), wants_parts(pair.theirs.tree)
    if ours_in_parts != theirs_in_parts:
        for chat in ordinary(tokens):
            pair.served(chat, ours_in_parts=ours_in_parts)
    branches = len(pair.ours.watch.points) + len(pair.theirs.watch.points)
    end = min(MOST_CHATS, MOST_WORK // (60 + branches))
    follow(ordinary(tokens))
    follow(odd(tokens))
    follow(islice(sweep(vocabulary, tokens), min(MOST_SWEPT, end // 2)))
    while kept and pair.count < end and not pair.is_done():
        chat = kept.popleft()
        follow(islice(_changes(pair, chat, vocabulary), end - pair.count))


def _changes(pair: _Pair, chat: Chat, vocabulary: Vocabulary) -> Iterator[Chat]:
    pair._texts(chat, plain=False)
    hints, told = [*pair.ours.watch.hints, *pair.theirs.watch.hints], pair.clock.told
    for hint in hints:
        yield from islice(towards(chat, hint, told), MOST_CHANGES)
    yield from nearby(chat, vocabulary)


def wants_parts(tree: Any) -> bool:
    """Whether a template goes through a content's parts: vLLM then gives it no plain texts."""
    from jinja2 import nodes

    def is_content(node: Any) -> bool:
        while isinstance(node, nodes.Filter | nodes.Test) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        key = getattr(node, "attr", None) or getattr(getattr(node, "arg", 0), "value", None)
        return key == "content" or (isinstance(node, nodes.Name) and node.name in held)

    held: set[str] = set()
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and is_content(assign.node):
            held.add(assign.target.name)
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _told(found: Difference) -> dict[str, Any]:
    ours, theirs = found.ours or "", found.theirs or ""
    pairs = zip(ours, theirs, strict=False)
    shorter = min(len(ours), len(theirs))
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), shorter)
    start = max(at - _BEFORE, 0)
    return {
        "given": _in_short(found.chat)[:_LONGEST],
        "ours": None if found.ours is None else ours[start : at + _SHOWN],
        "theirs": None if found.theirs is None else theirs[start : at + _SHOWN],
    }


def _in_short(chat: Chat) -> str:
    messages = chat.messages
    shown = messages if len(messages) < 6 else [*messages[:2], *messages[-2:]]
    said = [f"{_brief(m.get('role'))}: {_brief(m.get('content'))}" for m in shown]
    if len(shown) < len(messages):
        said.insert(2, f"… {len(messages) - 4} messages …")
    extra = {k: v for m in messages for k, v in m.items() if k not in ("role", "content")}
    names = {k: v for k, v in chat.names.items() if k != "messages" and not k.endswith("_token")}
    given = {k: v for k, v in {**extra, **names}.items() if v is not None and v is not False}
    told = [f"{k}={_brief(v)}" for k, v in given.items()]
    told += [] if chat.words is None else [f"the date {_brief(chat.words)}"]
    return "; ".join((" | ".join(said), *told))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:24]}… ({len(text)} characters)"
