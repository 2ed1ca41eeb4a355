"""What hidden states say of the next tokens: how surprising the right ones are, and the likeliest.

Only positions whose logits are needed come here; the logits of a whole batch would be gigabytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TOP = 20
"""So many of the likeliest tokens of a position stand for its whole distribution."""

_LOGITS_AT_ONCE = 4_000_000
"""Numbers of one block of logits in float32, 16 MB: what is computed of them stays in the cache."""


@dataclass(frozen=True, kw_only=True)
class TopKLogprobs:
    """Where a model expects a text to go on: its likeliest tokens at each position.

    ``tokens`` are ids, int32, (positions, k), the likeliest first; ``log_probabilities`` theirs in
    nats, float32, of the same shape.
    """

    tokens: "Tensor"
    log_probabilities: "Tensor"


@dataclass(frozen=True)
class References:
    """What reading references gave, one number for each of their tokens, float32 but for ``said``.

    ``losses`` in nats; ``said``, the likeliest token, int64. Where another model's outlook was
    given, the ``divergence`` from it in nats and the ``agreement``, 1 where both would have said
    the same; else NaN, and the model's own ``outlook``.
    """

    losses: "Tensor"
    said: "Tensor"
    divergence: "Tensor"
    agreement: "Tensor"
    outlook: TopKLogprobs | None


def likeliest(model: "PreTrainedModel", hidden: "Tensor") -> "Tensor":
    """Return the token with the largest logit for each hidden state, (tokens,), int64."""
    import torch

    return torch.cat([logits.argmax(dim=-1) for _, logits in _logits(model, hidden)])


def token_losses(model: "PreTrainedModel", hidden: "Tensor", targets: "Tensor") -> "Tensor":
    """Return ``logsumexp(logits) - logit[target]`` of each state: nats, float32, (tokens,)."""
    import torch

    losses = []
    for rows, logits in _logits(model, hidden):
        picked = logits.gather(-1, targets[rows, None])[:, 0]
        losses.append(torch.logsumexp(logits, dim=-1) - picked)
    return torch.cat(losses)


def read_references(
    model: "PreTrainedModel", hidden: "Tensor", targets: "Tensor", other: TopKLogprobs | None = None
) -> References:
    """Return the losses of the right tokens, and what the model would have said.

    The divergence is Kullback and Leibler's of the other model's distribution from this one's,
    over the other's likeliest tokens and one event for all the rest. Putting events together can
    only shrink it (Cover and Thomas, Elements of Information Theory, theorem 2.8.1), so it is a
    lower bound, and a close one where those tokens have nearly all the probability.

    Args:
        model: Whose language-model head is applied, with whatever adapter sits on it.
        hidden: Last hidden states, (tokens, hidden size).
        targets: The right next tokens, (tokens,), int64.
        other: Another model's outlook at the same positions.
    """
    import torch

    losses, said, tops, far = [], [], [], []
    for rows, logits in _logits(model, hidden):
        # The argument of the logits, as decoding has it: rounding may make two values equal.
        said.append(logits.argmax(dim=-1))
        most = logits.amax(dim=-1, keepdim=True)
        right = logits.gather(-1, targets[rows, None])
        if other is None:
            top = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
        else:
            theirs = logits.gather(-1, other.tokens[rows].long())
        # As log_softmax does it, but in place, and only where it is asked for.
        norms = logits.sub_(most).exp_().sum(dim=-1, keepdim=True).log_()
        losses.append((norms - (right - most))[:, 0])
        if other is None:
            tops.append((top.indices.int(), top.values - most - norms))
        else:
            far.append(_divergence(other.log_probabilities[rows], theirs - most - norms))
    everything = torch.cat(losses), torch.cat(said)
    if other is None:
        nothing = torch.full_like(everything[0], math.nan)
        outlook = TopKLogprobs(
            tokens=torch.cat([indices for indices, _ in tops]),
            log_probabilities=torch.cat([values for _, values in tops]),
        )
        return References(*everything, nothing, nothing, outlook)
    alike = (everything[1] == other.tokens[:, 0]).float()
    return References(*everything, torch.cat(far), alike, None)


def _logits(model: "PreTrainedModel", hidden: "Tensor") -> "Iterator[tuple[slice, Tensor]]":
    """Yield (rows, logits in float32, (rows, vocabulary)), block by block."""
    head = model.get_output_embeddings()
    size = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        yield rows, head(hidden[rows]).float()


def _divergence(theirs: "Tensor", own: "Tensor") -> "Tensor":
    """Return sum p (log p - log q) over the events given and the rest, (tokens,); at least 0."""
    import torch

    tiny = torch.finfo(torch.float32).tiny
    p, q = theirs.double(), own.double().clamp(min=math.log(tiny))
    known = torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1)
    rest_p = (1.0 - p.exp().sum(-1)).clamp(min=0.0)
    rest_q = (1.0 - q.exp().sum(-1)).clamp(min=tiny)
    rest = torch.where(rest_p > tiny, rest_p * (rest_p.clamp(min=tiny) / rest_q).log(), 0.0)
    return (known + rest).clamp(min=0.0).float()
