"""Score an item that is longer than LongRoPE's threshold, as transformers serves it.

Beyond ``original_max_position_embeddings``, Phi-3 uses other rotary frequencies for every position,
the first ones included, so no earlier keys can be reused: transformers' ``generate`` starts again.
"""

from typing import TYPE_CHECKING, Any

from phi3_lora_qa.scoring.item_outputs import BaseOutputs, ItemOutput
from phi3_lora_qa.scoring.losses import LogitBlocks, logit_blocks
from phi3_lora_qa.scoring.plain_engine import Tokens, score_alone
from phi3_lora_qa.scoring.prompts import TokenizedItem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def longrope_threshold(model: "PreTrainedModel") -> int | None:
    """Return the most tokens of a row that uses the short factors; None without LongRoPE."""
    return getattr(model.config, "original_max_position_embeddings", None)


def score_long_item(
    model: "PreTrainedModel",
    item: TokenizedItem,
    stops: frozenset[int],
    base_outputs: BaseOutputs,
) -> ItemOutput:
    """Return a model's output for one item, as `BatchEngine.run` does for shorter ones."""
    return score_alone(model, item, stops, base_outputs, _decoder_logits)


def _decoder_logits(model: "PreTrainedModel", prompt: Tokens, answer: Tokens) -> LogitBlocks:
    """Return the logits that predict an answer's tokens, block by block."""
    import torch

    tokens = torch.tensor([prompt + answer[:-1]], device=model.device)
    decoder: Any = model.get_decoder()
    hidden: Tensor = decoder(input_ids=tokens, use_cache=False).last_hidden_state
    return logit_blocks(model, hidden[0, len(prompt) - 1 :])
