"""A model's output for one item, in tokens: it is cached for the base and compared with it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3_lora_qa.scoring.losses import LogitBlocks, TopKLogprobs, score_targets
from phi3_lora_qa.scoring.prompts import TokenizedItem


@dataclass(frozen=True, kw_only=True)
class ItemOutput:
    """A model's output for one item.

    ``loss`` is the mean over the reference in nats per token, ``answer`` the greedy answer, and
    ``choices`` the log-likelihood in nats of each option as the whole answer. ``top_k`` are this
    model's top-k log-probabilities along the reference. If the output was compared with that of
    another model instead, ``divergence`` is the mean in nats per token, and ``agreement`` is the
    fraction of the reference's tokens at which both models predict the same token.
    """

    loss: float
    answer: tuple[int, ...]
    choices: tuple[float, ...] = ()
    top_k: TopKLogprobs | None = None
    divergence: float = math.nan
    agreement: float = math.nan


BaseOutputs = Mapping[str, ItemOutput]
"""The base's outputs by item id; those of items that were not scored are missing."""


def score_references(
    blocks: LogitBlocks,
    batch: Sequence[TokenizedItem],
    base_outputs: BaseOutputs,
) -> list[tuple[ItemOutput, list[int]]]:
    """Return each item's output without its answer, and the greedy token at each position.

    Args:
        blocks: The logits that predict the tokens of the references, item after item.
        batch: The items.
        base_outputs: The base's outputs by item id.
    """
    import torch

    targets = torch.tensor([token for item in batch for token in item.reference])
    known = [base_outputs[item.id].top_k for item in batch if item.id in base_outputs]
    top_ks = [top_k for top_k in known if top_k is not None]
    other = _concatenate(top_ks) if len(top_ks) == len(batch) else None
    scores = score_targets(blocks, targets, other)
    outputs, start = [], 0
    for item in batch:
        rows = slice(start, start + len(item.reference))
        start = rows.stop
        loss, divergence, agreement = (
            float(values[rows].double().mean())
            for values in (scores.losses, scores.divergence, scores.agreement)
        )
        output = ItemOutput(
            loss=loss,
            answer=(),
            top_k=_slice(scores.top_k, rows),
            divergence=divergence,
            agreement=agreement,
        )
        outputs.append((output, scores.predicted[rows].tolist()))
    return outputs


def _slice(top_k: TopKLogprobs | None, rows: slice) -> TopKLogprobs | None:
    return top_k and TopKLogprobs(
        tokens=top_k.tokens[rows].clone(),
        log_probabilities=top_k.log_probabilities[rows].clone(),
    )


def _concatenate(top_ks: Sequence[TopKLogprobs]) -> TopKLogprobs:
    import torch

    return TopKLogprobs(
        tokens=torch.cat([top_k.tokens for top_k in top_ks]),
        log_probabilities=torch.cat([top_k.log_probabilities for top_k in top_ks]),
    )
