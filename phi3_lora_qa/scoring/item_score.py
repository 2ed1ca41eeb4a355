"""One item's score under one model, and the options of scoring."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from phi3_lora_qa.scoring.prompts import TokenizedItem
from phi3_lora_qa.setting_specs import ENGINES


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score. Only ``max_new_tokens`` changes scores by more than rounding.

    ``max_new_tokens`` limits the answers; None for the limits of `prompts.answer_limit`.
    ``token_budget`` is the most tokens of a batch, answers included; None for as many as memory
    allows. ``seed`` seeds any randomness inside a model (a plain Phi-3 in eval mode has none).
    ``engine`` is ``fast``, or ``plain`` for transformers' own forward and ``generate``.
    """

    max_new_tokens: int | None = None
    token_budget: int | None = None
    seed: int = 0
    engine: str = ENGINES[0]


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """One model's score on one item.

    ``loss`` is the mean over the ``tokens`` of the reference, the stop token included, in nats; NaN
    if it could not be computed. ``answer`` is the greedy answer without special tokens, and
    ``stopped`` is whether it ended with a stop token. A score with an ``error`` must never count as
    passed. For a model in this process, ``choice`` is the index of the most likely option of the
    item (-1 without options), ``divergence`` and ``agreement`` compare the model with the base
    along the reference (NaN without a base), and ``output`` is the model's output in tokens.
    """

    item_id: str
    loss: float
    tokens: int
    answer: str
    stopped: bool
    error: str = ""
    choice: int = -1
    divergence: float = field(default=math.nan, compare=False)  # a NaN is unequal to itself
    agreement: float = field(default=math.nan, compare=False)
    output: ItemOutput | None = field(default=None, compare=False, repr=False)


def make_score(item: TokenizedItem, loss: float, answer: str, *, stopped: bool) -> ItemScore:
    """Return an item's score; a loss that is not finite is an error."""
    score = ItemScore(
        item_id=item.id, loss=loss, tokens=len(item.reference), answer=answer, stopped=stopped
    )
    if math.isfinite(loss):
        return score
    return replace(
        score, error=f"the loss is {loss}; look for NaN or infinite weights in the adapter"
    )


def failed_score(item_id: str, tokens: int, error: Exception) -> ItemScore:
    """Return the score of an item that could not be scored."""
    return ItemScore(
        item_id=item_id,
        loss=math.nan,
        tokens=tokens,
        answer="",
        stopped=False,
        error=f"{type(error).__name__}: {escape(str(error))}",
    )


def validate_request(items: Sequence[Item], options: ScoringOptions) -> None:
    """Reject items and options that cannot be scored.

    Raises:
        InputError: Two items have the same id, or an option is not a positive number.
    """
    limits = (options.max_new_tokens, options.token_budget)
    if any(limit is not None and limit < 1 for limit in limits):
        raise InputError(
            "max_new_tokens and token_budget must be positive: "
            f"got {options.max_new_tokens} and {options.token_budget}; pass positive numbers"
        )
    if len({item.id for item in items}) < len(items):
        raise InputError("two items have the same id; give every item a unique id")
