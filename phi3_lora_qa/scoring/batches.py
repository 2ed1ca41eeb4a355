"""Group items into batches: rows of similar length, within a token budget."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.scoring.prompts import TokenizedItem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KV_CACHE_BYTES = 1536 << 20
"""The most bytes that a batch's KV cache may take; decoding gains from large batches."""
MIN_TOKENS, MAX_TOKENS = 2048, 32_768
"""With fewer tokens, a large model would get only a row or two; more tokens gain nothing."""

GPU_SHARE = 0.5
"""The share of a GPU's free memory for a batch's KV cache; activations and drafts need the rest."""
MAX_GPU_TOKENS = 131_072


def plan_batches(
    items: Sequence[TokenizedItem], token_budget: int, alone_above: int | None = None
) -> tuple[tuple[TokenizedItem, ...], ...]:
    """Return batches, the longest items first, so that a lack of memory shows early.

    Batches depend on lengths and ids only, never on the order of the items.

    Args:
        items: The items to group.
        token_budget: The most tokens of a batch, answers included. A single item may be longer.
        alone_above: Items with more tokens get a separate batch: LongRoPE picks its frequencies by
            the longest row, and no item's score may depend on other rows.
    """
    batches: list[tuple[TokenizedItem, ...]] = []
    batch: list[TokenizedItem] = []
    tokens = 0
    for item in sorted(items, key=lambda item: (-item.length, item.id)):
        full = tokens + item.length > token_budget
        if batch and (full or (alone_above is not None and batch[0].length > alone_above)):
            batches.append(tuple(batch))
            batch, tokens = [], 0
        batch.append(item)
        tokens += item.length
    return (*batches, tuple(batch)) if batch else tuple(batches)


def default_token_budget(model: "PreTrainedModel", free: int | None = None) -> int:
    """Return how many tokens a batch may have, from the size of a token's keys and values.

    Args:
        model: The model.
        free: The free bytes of the device that it is on; None for a CPU, where the limit is one of
            speed and does not depend on the free memory, so that equal runs give equal results.
    """
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    if free is None:
        return max(MIN_TOKENS, min(MAX_TOKENS, KV_CACHE_BYTES // token))
    return max(MIN_TOKENS, min(MAX_GPU_TOKENS, int(free * GPU_SHARE) // token))
