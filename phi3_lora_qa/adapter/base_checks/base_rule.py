"""The definition of a rule on the base, and the decorator that makes one from a function."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.rule import DocumentedRule, require_id

BaseCheckFunction = Callable[[BaseView], Iterator[Violation]]


class BaseUse(StrEnum):
    """What a run does with the base."""

    LOADING = "the model is loaded"
    ANSWERS = "answers to conversations are scored"
    TEMPLATE = "an adapter's chat template is compared with the base's"


@dataclass(frozen=True, kw_only=True)
class BaseRule(DocumentedRule):
    """A rule on the base.

    Attributes:
        blocks: The uses that a violation makes impossible; for a run with one of them, the finding
            is an error.
        check: Yields a `Violation` for each fault.
    """

    blocks: frozenset[BaseUse]
    check: BaseCheckFunction


def base_rule(  # noqa: PLR0913 - a rule has this many fields
    id: str,  # noqa: A002 - the word that users see
    *,
    title: str,
    why: str,
    fix: str,
    severity: Severity = Severity.WARNING,
    blocks: tuple[BaseUse, ...] = (),
) -> Callable[[BaseCheckFunction], BaseRule]:
    """Make the decorated function a `BaseRule`.

    Raises:
        ValueError: The id is not in kebab case with at least two words.
    """
    require_id(id)

    def decorate(check: BaseCheckFunction) -> BaseRule:
        return BaseRule(
            id=id,
            severity=severity,
            title=title,
            why=why,
            fix=fix,
            needs=("base",),
            blocks=frozenset(blocks),
            check=check,
        )

    return decorate
