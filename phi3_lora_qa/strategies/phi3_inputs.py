"""Strategies for tiny Phi-3 configs and for batches of tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from phi3_lora_qa.strategies.arrays import require_known
from phi3_lora_qa.strategies.compact_repr import CompactRepr

if TYPE_CHECKING:
    from transformers import Phi3Config

Padding = Literal["right", "left"]
PADDING_SIDES: tuple[Padding, ...] = ("right", "left")

_CONTEXT = 128


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Batch(CompactRepr):
    """Rows of tokens, padded to the longest; every row has a token, and no token is the pad token.

    Attributes:
        input_ids: int64 (rows, tokens), below the vocabulary size.
        attention_mask: int64 (rows, tokens), 1 for a token and 0 for padding.

    Example:
        >>> import numpy as np
        >>> row = np.array([[3, 5]])
        >>> Batch(input_ids=row, attention_mask=np.ones_like(row))
        Batch(input_ids=array([[3, 5]]), attention_mask=array([[1, 1]]))
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


@st.composite
def phi3_configs(draw: st.DrawFn, *, max_layers: int = 3) -> "Phi3Config":
    """Draw the config of a tiny Phi-3; simplest: hidden size 16, one layer, one head, no options.

    The hidden size is 16 to 64, with up to 4 heads and a vocabulary of 32 to 128. Grouped-query
    attention, tied tables, a sliding window of 2 to 16 tokens and longrope are drawn or absent. The
    context that longrope extends has 8 to 32 tokens, so a short batch exceeds it. The pad token is
    separate or equals the end-of-text token.

    Args:
        draw: Supplied by hypothesis.
        max_layers: The largest number of layers.

    Returns:
        A transformers.Phi3Config.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=1, database=None, deadline=None)
        ... @given(phi3_configs(max_layers=1))
        ... def test(config):
        ...     assert config.num_hidden_layers == 1 and config.hidden_size <= 64
        >>> test()
    """
    from transformers import Phi3Config

    hidden, heads = draw(st.sampled_from((16, 24, 32, 48, 64))), draw(st.sampled_from((1, 2, 4)))
    groups = draw(st.sampled_from([count for count in (4, 2, 1) if heads % count == 0]))
    vocabulary = draw(st.integers(32, 128))
    last = vocabulary - 1
    pad, bos, eos = draw(st.sampled_from(((0, 1, 2), (2, 1, 2), (last, 1, last), (last, 0, 5))))
    short = draw(st.none() | st.sampled_from((8, 16, 32)))
    return Phi3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=draw(st.integers(16, 64)),
        num_hidden_layers=draw(st.integers(1, max_layers)),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=_CONTEXT,
        original_max_position_embeddings=short or _CONTEXT,
        rope_parameters=draw(_longropes(hidden // heads, _CONTEXT / short)) if short else None,
        sliding_window=draw(st.none() | st.integers(2, 16)),
        tie_word_embeddings=draw(st.booleans()),
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
        # With the default 0.02, attention and logits of such a narrow model would be nearly
        # uniform, and mistakes would hardly show.
        initializer_range=0.2,
    )


@st.composite
def batches(
    draw: st.DrawFn,
    config: "Phi3Config",
    *,
    max_rows: int = 4,
    max_tokens: int = 16,
    padding: Padding | None = None,
) -> Batch:
    """Draw a `Batch` for a model with this config; simplest: one row of one token.

    Args:
        draw: Supplied by hypothesis.
        config: Gives the vocabulary size and the pad token (0 if it has none).
        max_rows: The largest number of rows.
        max_tokens: The largest number of tokens in a row.
        padding: The side on which rows are padded; None draws either.

    Returns:
        The batch.

    Raises:
        InputError: The padding is neither "left" nor "right".

    Example:
        >>> from hypothesis import given, settings
        >>> from hypothesis import strategies as st
        >>> @settings(max_examples=1, database=None, deadline=None)
        ... @given(st.data())
        ... def test(data):
        ...     batch = data.draw(batches(data.draw(phi3_configs()), padding="left"))
        ...     assert batch.attention_mask[:, -1].all()
        >>> test()
    """
    pad = config.pad_token_id or 0
    tokens = st.integers(0, config.vocab_size - 2).map(lambda token: token + (token >= pad))
    texts = st.lists(tokens, min_size=1, max_size=max_tokens)
    rows = draw(st.lists(texts, min_size=1, max_size=max_rows))
    side = draw(st.sampled_from(PADDING_SIDES)) if padding is None else padding
    require_known("padding", side, PADDING_SIDES)
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad), np.zeros(shape, dtype=np.int64)
    for row, text in enumerate(rows):
        place = slice(0, len(text)) if side == "right" else slice(shape[1] - len(text), None)
        ids[row, place], mask[row, place] = text, 1
    return Batch(input_ids=ids, attention_mask=mask)


@st.composite
def _longropes(draw: st.DrawFn, head: int, factor: float) -> dict[str, object]:
    """Draw factors that increase over a head's dimension pairs, as Phi-3's do; simplest: ones."""
    short, long = (draw(st.floats(1, largest, width=16)) for largest in (2, 64))
    return {
        "rope_type": "longrope",
        "factor": factor,
        "short_factor": np.geomspace(1, short, head // 2).tolist(),
        "long_factor": np.geomspace(1, long, head // 2).tolist(),
    }
