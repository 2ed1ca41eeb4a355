"""Access to the parts of a `LintContext`: what to raise if one is missing or unreadable."""

from collections.abc import Callable
from typing import TypeVar

from phi3_lora_qa.errors import AdapterError, BaseModelError

T = TypeVar("T")


def as_base_error(read: Callable[[], T]) -> T:
    """Read a part of the base's tokenizer.

    Raises:
        BaseModelError: It cannot be read.
    """
    try:
        return read()
    except AdapterError as error:
        raise BaseModelError(f"the base's tokenizer: {error}") from error


def required(part: T | None) -> T:
    """Return a part that a rule declared in its needs.

    Raises:
        LookupError: The part is missing.
    """
    if part is None:
        raise LookupError("a rule uses a part that it does not declare in its needs")
    return part
