"""Chat items: what the gate asks a model and what it should answer, read strictly."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.answer_checks import AnswerCheck, parse_checks
from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.reading import read_text

ROLES = ("system", "user", "assistant")
DEFAULT_GROUP = "target"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question of a suite: the turns up to the answer, and the reference answer.

    ``choices`` are the options that the reference is one of. ``checks`` are demands on the answer
    beside its likeness to the reference. Items of one ``cluster`` (they are about one document,
    say) are no independent observations; an item without one stands alone. ``where`` is the file
    and line that it was read from, for messages; empty for an item that was made otherwise.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str = DEFAULT_GROUP
    choices: tuple[str, ...] = ()
    checks: tuple[AnswerCheck, ...] = ()
    cluster: str = ""
    where: str = field(default="", compare=False)


def parse_conversation(raw: object, where: str) -> tuple[Message, ...]:
    """Check one ``messages`` value: known roles, text contents, an assistant turn at the end.

    Args:
        raw: The value as it came from JSON, a data frame or a data set.
        where: File and line, for the message.

    Raises:
        DataError: With ``where`` and the mend.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence) or not raw:
        raise DataError(f"{where}: 'messages' must be a non-empty list of turns")
    turns = []
    for number, turn in enumerate(raw, 1):
        if not isinstance(turn, Mapping):
            raise DataError(f"{where}: turn {number} must be an object with 'role' and 'content'")
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise DataError(
                f"{where}: turn {number} has the role {escape(repr(role), 40)}; "
                f"use one of {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise DataError(f"{where}: the content of turn {number} must be a string")
        _require_whole(content, f"turn {number}", where)
        turns.append(Message(role=role, content=content))
    if turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise DataError(
            f"{where}: the last turn must be a non-empty assistant message; it is the reference"
        )
    if all(turn.role != "user" for turn in turns[:-1]):
        raise DataError(f"{where}: there is no user turn before the reference; add one")
    return tuple(turns)


def parse_item(raw: object, where: str, fallback_id: str) -> Item:
    """Turn one row into an Item: ``messages``, and what else an Item has where it is given.

    Raises:
        DataError: With ``where`` and the mend.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: a row must be an object with 'messages'")
    turns = parse_conversation(raw.get("messages"), where)
    identifier, group = raw.get("id", fallback_id), raw.get("group", DEFAULT_GROUP)
    named = {"id": identifier, "group": group}
    named |= {"cluster": raw["cluster"]} if "cluster" in raw else {}
    for name, value in named.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: '{name}' must be a non-empty string")
        _require_whole(value, f"'{name}'", where)
    require_group(group, where)
    reference = turns[-1].content
    return Item(
        id=identifier,
        prompt=turns[:-1],
        reference=reference,
        group=group,
        choices=_parse_choices(raw["choices"], reference, where) if "choices" in raw else (),
        checks=parse_checks(raw.get("checks", ()), where),
        cluster=named.get("cluster", ""),
        where=where,
    )


def require_group(group: str, where: str) -> None:
    """Refuse a group's name that would look like another one, or be a command to a terminal or CI.

    It stands in the ids of checks, which pytest prints as they are; and one that only looks like
    "target" would escape what is asked of that.

    Raises:
        DataError: With ``where`` and the mend.
    """
    if group != group.strip() or group != escape(group, len(group)):
        raise DataError(
            f"{where}: 'group' is {escape(repr(group), 60)}; write a name without white space "
            "around it and without control characters, '##' or a leading '::'"
        )


def _parse_choices(raw: object, reference: str, where: str) -> tuple[str, ...]:
    options = () if isinstance(raw, str) or not isinstance(raw, Sequence) else tuple(raw)
    texts = all(isinstance(option, str) and option.strip() for option in options)
    if len(options) < 2 or not texts or len(set(options)) < len(options):
        raise DataError(f"{where}: 'choices' must be a list of two or more different texts")
    if reference not in options:
        raise DataError(
            f"{where}: the reference {escape(repr(reference), 60)} is none of the choices; "
            "write one of them word for word"
        )
    for option in options:
        _require_whole(option, "a choice", where)
    return options


def _require_whole(text: str, what: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {what} holds half a surrogate pair, which no tokenizer reads; "
            "write the character itself, or leave it out"
        ) from error


LARGEST = 1 << 30
"""Bytes of a file of items or of training data, which is read whole."""


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, value)`` for every non-empty line of a JSON-lines file.

    Raises:
        DataError: The file cannot be read, is no UTF-8, or a line is no JSON.
    """
    try:
        text = read_text(path, LARGEST, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a UTF-8 file of JSON lines") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: no JSON ({error}); write one object a line") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields; Python would keep the last of two and say nothing."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {escape(repr(twice), 60)} is there twice")
    return made
