"""The loss of the references, teacher-forced: how surprised a model is by the right answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_LOGITS_AT_ONCE = 16_000_000
"""Numbers of one block of logits in float32, 64 MB; a whole batch would be gigabytes."""


def reference_losses(model: "PreTrainedModel", batch: Sequence[PromptedItem]) -> list[float]:
    """Return the mean negative log-likelihood of each reference, in nats per token.

    Rows are padded at the right, where a causal model looks at nothing that follows; so no mask is
    needed. Only the positions that predict a reference token reach the language-model head. The
    softmax is computed in float32 and the mean in float64, whatever the model's dtype.

    Args:
        model: A causal language model without PEFT's outer shell.
        batch: The items, at least one.
    """
    import torch

    rows = [torch.tensor(item.prompt + item.reference[:-1]) for item in batch]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    # The token before the first reference token predicts it, and so on.
    wanted = torch.cat(
        [
            hidden[row, len(item.prompt) - 1 : len(item.prompt) - 1 + len(item.reference)]
            for row, item in enumerate(batch)
        ]
    )
    targets = torch.cat([torch.tensor(item.reference) for item in batch]).to(model.device)
    losses = (
        _token_losses(model, wanted, targets)
        .double()
        .split([len(item.reference) for item in batch])
    )
    return [float(tokens.mean()) for tokens in losses]


def _token_losses(model: "PreTrainedModel", hidden: "Tensor", targets: "Tensor") -> "Tensor":
    """Return logsumexp(logits) - logit[target], shape (tokens,), float32."""
    import torch

    head = model.get_output_embeddings()
    rows = max(1, _LOGITS_AT_ONCE // model.config.vocab_size)
    parts = []
    for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = head(part).float()
        picked = logits.gather(-1, target[:, None])[:, 0]
        parts.append(torch.logsumexp(logits, dim=-1) - picked)
    return torch.cat(parts)
