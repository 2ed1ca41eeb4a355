"""What a model made of an item, in tokens: what is kept of the base, and compared with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.scoring.losses import TopKLogprobs, read_references
from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ItemOutput:
    """What a model made of one item.

    ``loss`` is the mean over the reference in nats per token, ``answer`` the greedy answer,
    ``choices`` the log-likelihood of each option as the whole answer, in nats.
    ``outlook`` is the model's own along the reference; where it was held against another model's
    instead, ``divergence`` is the mean in nats per token, and ``agreement`` the share of the
    reference's tokens at which both models would have said the same.
    """

    loss: float
    answer: tuple[int, ...]
    choices: tuple[float, ...] = ()
    outlook: TopKLogprobs | None = None
    divergence: float = math.nan
    agreement: float = math.nan


def score_references(
    model: "PreTrainedModel",
    hidden: "Tensor",
    batch: Sequence[PromptedItem],
    others: Mapping[str, ItemOutput],
) -> list[tuple[ItemOutput, list[int]]]:
    """Return each item's reading, still without an answer, and what the model says at each token.

    Args:
        model: Whose last hidden states these are.
        hidden: The states that predict the references' tokens, one item after the other.
        batch: The items.
        others: By id, what another model made of them.
    """
    import torch

    targets = torch.tensor([token for item in batch for token in item.reference])
    outlooks = [others[item.id].outlook for item in batch if item.id in others]
    known = [outlook for outlook in outlooks if outlook is not None]
    other = _joined(known) if len(known) == len(batch) else None
    found = read_references(model, hidden, targets.to(hidden.device), other)
    readings, start = [], 0
    for item in batch:
        rows = slice(start, start + len(item.reference))
        start = rows.stop
        loss, divergence, agreement = (
            float(values[rows].double().mean())
            for values in (found.losses, found.divergence, found.agreement)
        )
        reading = ItemOutput(
            loss=loss,
            answer=(),
            outlook=_part(found.outlook, rows),
            divergence=divergence,
            agreement=agreement,
        )
        readings.append((reading, found.said[rows].tolist()))
    return readings


def _part(outlook: TopKLogprobs | None, rows: slice) -> TopKLogprobs | None:
    return outlook and TopKLogprobs(
        tokens=outlook.tokens[rows].clone(),
        log_probabilities=outlook.log_probabilities[rows].clone(),
    )


def _joined(outlooks: Sequence[TopKLogprobs]) -> TopKLogprobs:
    import torch

    return TopKLogprobs(
        tokens=torch.cat([outlook.tokens for outlook in outlooks]),
        log_probabilities=torch.cat([outlook.log_probabilities for outlook in outlooks]),
    )
