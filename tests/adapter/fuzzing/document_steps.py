"""Steps on JSON documents, including the header of the weights: members and nested values."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.adapter.fuzzing.hostile_texts import raw
from tests.adapter.fuzzing.image import CANARY, Image, parsed


def put(image: Image, file: str, key: str, value: str) -> None:
    """Set a member of a JSON document."""
    members = image.members(file)
    at = next((n for n, (k, _) in enumerate(members) if k == json.dumps(key)), len(members))
    members[at : at + 1] = [(json.dumps(key), raw(value))]


def twice(image: Image, file: str, index: int, value: str) -> None:
    """Duplicate the key of a member."""
    if members := image.members(file):
        members.append((members[index % len(members)][0], raw(value)))


def rekey(image: Image, file: str, index: int, key: str) -> None:
    """Change the key of a member, as JSON text."""
    if members := image.members(file):
        at = index % len(members)
        members[at] = (raw(key), members[at][1])


def forget(image: Image, file: str, index: int) -> None:
    """Remove a member."""
    if members := image.members(file):
        members.pop(index % len(members))


def node(image: Image, file: str, index: int, inner: int, value: str) -> None:
    """Replace one nested value of a member."""
    members = image.members(file)
    found = parsed(members[index % len(members)][1].encode()) if members else None
    places = list(_places(found))
    if places:
        holder, key = places[inner % len(places)]
        holder[key] = CANARY
        text = json.dumps(found).replace(f'"{CANARY}"', raw(value))
        members[index % len(members)] = (members[index % len(members)][0], text)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    for key in keys:
        yield value, key
        yield from _places(value[key])


def crowd(image: Image, file: str, count: int, repeated: int) -> None:
    """Add many members, and repeat the last one."""
    members = image.members(file)
    members.extend((f'"{number:x}"', "0") for number in range(count))
    members.extend(members[-1:] * repeated)


ON_DOCUMENTS: tuple[Callable[..., object], ...] = (put, twice, rekey, forget, node, crowd)
