"""Convert a Llama to a Phi-3: the same arithmetic, with fused projections.

The rows of ``qkv_proj`` are those of q, k and v, and the rows of ``gate_up_proj`` are those of gate
and up. Everything else has the same name and shape in both.
"""

from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.architecture import FUSED_PARTS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig, Phi3Config

_SAME_IN_BOTH = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_parameters",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def phi3_config(llama: "LlamaConfig") -> "Phi3Config":
    """Return the Phi-3 config for a Llama's arithmetic: same sizes, no sliding window."""
    from transformers import Phi3Config

    return Phi3Config(
        **{name: getattr(llama, name) for name in _SAME_IN_BOTH},
        original_max_position_embeddings=llama.max_position_embeddings,
        sliding_window=None,
    )


def fuse(llama: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Rename a Llama's weights to Phi-3's, and stack the projections that Phi-3 fuses.

    ``qkv_proj`` is (q + k + v rows, hidden) and ``gate_up_proj`` is (gate + up rows, hidden). All
    other names are the same in both.
    """
    import torch

    fused = dict(llama)
    for whole, pieces in FUSED_PARTS.items():
        for name in [name for name in llama if f".{pieces[0]}." in name]:
            rows = [fused.pop(name.replace(pieces[0], piece)) for piece in pieces]
            fused[name.replace(pieces[0], whole)] = torch.cat(rows)
    return fused
