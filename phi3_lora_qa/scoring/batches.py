"""Which items go through the model together: rows of like length, within a token budget."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEY_VALUE_BYTES = 1536 << 20
"""What the keys and values of a batch may take: for decoding, a batch can hardly be too large."""
FEWEST_TOKENS, MOST_TOKENS = 2048, 32_768
"""Below, a large model would be read for a row or two; above, a batch has rows enough."""


def plan(
    items: Sequence[PromptedItem], token_budget: int, alone_above: int | None = None
) -> tuple[tuple[PromptedItem, ...], ...]:
    """Return batches, the longest items first, so that trouble with memory shows at once.

    Length and id alone decide, never the order in which the items came.

    Args:
        items: What to batch.
        token_budget: The most tokens of a batch, answers counted. A single item may be longer.
        alone_above: Items longer than this get a batch of their own: LongRoPE picks its
            frequencies by the longest row, and no item's score may depend on its neighbours.
    """
    batches: list[tuple[PromptedItem, ...]] = []
    batch: list[PromptedItem] = []
    tokens = 0
    for item in sorted(items, key=lambda item: (-item.length, item.id)):
        full = tokens + item.length > token_budget
        if batch and (full or (alone_above is not None and batch[0].length > alone_above)):
            batches.append(tuple(batch))
            batch, tokens = [], 0
        batch.append(item)
        tokens += item.length
    return (*batches, tuple(batch)) if batch else tuple(batches)


def fitting_tokens(model: "PreTrainedModel") -> int:
    """Return how many tokens a batch may have, by the bytes of a token's keys and values."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    return max(FEWEST_TOKENS, min(MOST_TOKENS, KEY_VALUE_BYTES // token))
