"""Losses and greedy tokens from logits, computed block by block.

Only the positions whose logits are needed get here; the logits of a whole batch would take
gigabytes.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TOP_K = 20
"""How many tokens of the highest probability represent the distribution at a position."""

_BLOCK_SIZE = 4_000_000
"""Logits of one block in float32 (16 MB), so that a block stays in the processor's cache."""

LogitBlocks = Iterable["tuple[slice, Tensor]"]
"""Pairs of (rows, logits of these rows in float32, (rows, vocabulary)), in order.

The reader of a block may overwrite it.
"""


@dataclass(frozen=True, kw_only=True)
class TopKLogprobs:
    """The most probable next tokens at each position of a text.

    ``tokens`` are token ids, int32, (positions, k), the most probable first. ``log_probabilities``
    are in nats, float32, of the same shape.
    """

    tokens: "Tensor"
    log_probabilities: "Tensor"


@dataclass(frozen=True)
class TargetScores:
    """Scores of target tokens, one number each; all are float32 except ``predicted`` (int64).

    ``losses`` are in nats and ``predicted`` are the greedy tokens. If another model's top-k
    log-probabilities were passed, ``divergence`` from that model is in nats and ``agreement`` is 1
    where both models predict the same token; otherwise both are NaN, and ``top_k`` contains this
    model's own.
    """

    losses: "Tensor"
    predicted: "Tensor"
    divergence: "Tensor"
    agreement: "Tensor"
    top_k: TopKLogprobs | None


def logit_blocks(model: "PreTrainedModel", hidden: "Tensor") -> "Iterator[tuple[slice, Tensor]]":
    """Yield the logits of last hidden states (tokens, hidden size), as `LogitBlocks`."""
    head = model.get_output_embeddings()
    size = max(1, _BLOCK_SIZE // model.config.vocab_size)
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        yield rows, head(hidden[rows]).float()


def greedy_tokens(blocks: LogitBlocks) -> "Tensor":
    """Return the token with the largest logit at each position, (tokens,), int64."""
    import torch

    return torch.cat([logits.argmax(dim=-1) for _, logits in blocks])


def token_losses(blocks: LogitBlocks, targets: "Tensor") -> "Tensor":
    """Return ``logsumexp(logits) - logit[target]`` of each position: nats, float32, (tokens,).

    The losses are where the logits are; the targets may be elsewhere.
    """
    import torch

    losses = []
    for rows, logits in blocks:
        picked = logits.gather(-1, targets[rows, None].to(logits.device))[:, 0]
        losses.append(torch.logsumexp(logits, dim=-1) - picked)
    return torch.cat(losses)


def score_targets(
    blocks: LogitBlocks, targets: "Tensor", other: TopKLogprobs | None = None
) -> TargetScores:
    """Return the losses of target tokens, and the greedy tokens in their places.

    The divergence is the Kullback-Leibler divergence of the other model's distribution from this
    one's, over the other model's top-k tokens plus one event for all remaining tokens. Merging
    events can only reduce it (Cover and Thomas, Elements of Information Theory, theorem 2.8.1), so
    it is a lower bound. The bound is tight where the top k have nearly all of the probability.

    The scores are on the CPU, whatever device the logits are on: they are small, and some devices
    have no float64.

    Args:
        blocks: The logits at the positions that predict the targets.
        targets: The target tokens, (tokens,), int64.
        other: Another model's top-k log-probabilities at the same positions.
    """
    import torch

    losses, predicted, tops, divergences = [], [], [], []
    for rows, logits in blocks:
        # The argmax of the logits, as in decoding: after normalising, rounding may cause ties.
        predicted.append(logits.argmax(dim=-1))
        largest = logits.amax(dim=-1, keepdim=True)
        target_logits = logits.gather(-1, targets[rows, None].to(logits.device))
        if other is None:
            top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        else:
            at_other = logits.gather(-1, other.tokens[rows].long().to(logits.device))
        # This is log_softmax, but in place and only for the tokens that are needed.
        norms = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True).log_()
        losses.append((norms - (target_logits - largest))[:, 0])
        if other is None:
            tops.append((top.indices.int(), top.values - largest - norms))
        else:
            own = at_other - largest - norms
            divergences.append(_divergence(other.log_probabilities[rows].cpu(), own.cpu()))
    scores = torch.cat(losses).cpu(), torch.cat(predicted).cpu()
    if other is None:
        nan = torch.full_like(scores[0], math.nan)
        top_k = TopKLogprobs(
            tokens=torch.cat([indices for indices, _ in tops]).cpu(),
            log_probabilities=torch.cat([values for _, values in tops]).cpu(),
        )
        return TargetScores(*scores, nan, nan, top_k)
    agreement = (scores[1] == other.tokens[:, 0].cpu()).float()
    return TargetScores(*scores, torch.cat(divergences), agreement, None)


def _divergence(theirs: "Tensor", own: "Tensor") -> "Tensor":
    """Return sum p (log p - log q) over the given events and the rest, (tokens,); at least 0."""
    import torch

    tiny = torch.finfo(torch.float32).tiny
    p, q = theirs.double(), own.double().clamp(min=math.log(tiny))
    known = torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1)
    rest_p = (1.0 - p.exp().sum(-1)).clamp(min=0.0)
    rest_q = (1.0 - q.exp().sum(-1)).clamp(min=tiny)
    rest = torch.where(rest_p > tiny, rest_p * (rest_p.clamp(min=tiny) / rest_q).log(), 0.0)
    return (known + rest).clamp(min=0.0).float()
