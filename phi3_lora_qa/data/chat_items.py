"""Chat items: the prompts of a suite and their reference answers, read strictly."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.answer_checks import AnswerCheck, parse_checks
from phi3_lora_qa.errors import DataError, escape, reason_of
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
    """One item of a suite.

    Attributes:
        id: Unique in the suite.
        prompt: The turns before the answer.
        reference: The expected answer.
        group: The group whose limits apply.
        choices: The options of a multiple-choice item; the reference is one of them.
        checks: Requirements on the answer besides its similarity to the reference.
        cluster: Items of one cluster (about the same document, for example) are not independent
            observations. An item without a cluster is independent of all others.
        where: The file and line that it was read from, for messages; empty if there is none.
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
        DataError: The value is invalid; the message begins with ``where``.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence) or not raw:
        raise DataError(f"{where}: 'messages' must be a non-empty list of turns: {got(raw)}")
    turns = []
    for number, turn in enumerate(raw, 1):
        if not isinstance(turn, Mapping):
            raise DataError(
                f"{where}: turn {number} must be an object with 'role' and 'content': {got(turn)}"
            )
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise DataError(
                f"{where}: turn {number} has the role {escape(repr(role), 40)}; "
                f"use one of {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise DataError(
                f"{where}: the content of turn {number} must be a string: {got(content)}"
            )
        _require_encodable(content, f"turn {number}", where)
        turns.append(Message(role=role, content=content))
    if turns[-1].role != "assistant" or not turns[-1].content.strip():
        found = "it is empty" if turns[-1].role == "assistant" else f"it is a {turns[-1].role} turn"
        raise DataError(
            f"{where}: the last turn must be a non-empty assistant message, the reference: "
            f"{found}; add the expected answer"
        )
    if all(turn.role != "user" for turn in turns[:-1]):
        raise DataError(f"{where}: there is no user turn before the reference; add one")
    return tuple(turns)


def parse_item(raw: object, where: str, fallback_id: str) -> Item:
    """Return the Item of one row: ``messages``, and optionally the other fields of an Item.

    Raises:
        DataError: The row is invalid; the message begins with ``where``.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: a row must be an object with 'messages': {got(raw)}")
    turns = parse_conversation(raw.get("messages"), where)
    identifier, group = raw.get("id", fallback_id), raw.get("group", DEFAULT_GROUP)
    named = {"id": identifier, "group": group}
    named |= {"cluster": raw["cluster"]} if "cluster" in raw else {}
    for name, value in named.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}: '{name}' must be a non-empty string: {got(value)}")
        _require_encodable(value, f"'{name}'", where)
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


def got(value: object) -> str:
    """Return an unsuitable value for the end of a message, such as ``got 3``."""
    return "got nothing" if value is None else f"got {escape(repr(value), 60)}"


def require_group(group: str, where: str) -> None:
    """Raise if a group's name looks like another one or is a command to a terminal or a CI runner.

    pytest prints it unchanged as a part of check ids, and a name that only looks like "target"
    would escape the limits of that group.

    Raises:
        DataError: The name is not allowed; the message begins with ``where``.
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
        raise DataError(
            f"{where}: 'choices' must be a list of two or more different texts: {got(raw)}"
        )
    if reference not in options:
        raise DataError(
            f"{where}: the reference {escape(repr(reference), 60)} is not one of the choices; "
            "write exactly one of them"
        )
    for option in options:
        _require_encodable(option, "a choice", where)
    return options


def _require_encodable(text: str, what: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {what} contains half a surrogate pair, which no tokenizer can read; "
            "write the whole character, or remove it"
        ) from error


MOST_BYTES = 1 << 30
"""Largest size of a file of items or training data, since it is read into memory."""


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, value)`` for every non-empty line of a JSON-lines file.

    Raises:
        DataError: The file cannot be read or is not UTF-8, or a line is not JSON.
    """
    try:
        text = read_text(path, MOST_BYTES, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {reason_of(error)}; pass a UTF-8 file of JSON lines"
        ) from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where}: not JSON ({error}); write one object per line"
                ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise on a repeated field, because Python silently keeps only the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {escape(repr(twice), 60)} occurs twice")
    return made
