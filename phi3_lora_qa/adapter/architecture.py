"""The table of base architectures: what a decoder layer contains, and how transformers names it.

Phi-3 fuses q, k and v into ``qkv_proj``, and gate and up into ``gate_up_proj``. Every other
architecture here has Llama's split projections. Phi-3 exists in both: unsloth publishes it in the
layout of Llama or Mistral, with the same weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA_NORMS = (*_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_SPLIT = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture of decoder-only models.

    Attributes:
        model_type: The field of that name in config.json.
        name: The name that people use.
        class_name: The class in transformers.
        linears: The linear modules of a layer, by their names in it.
        norms: The norms of a layer, by their names in it.
        attention_bias: Whether q, k and v have a bias; None if config.json says so.
        tied_by_default: Whether the head is the embedding table if config.json does not say so.
        attention: The attention implementation of transformers that computes what the model does.
        is_scored_fast: Whether the fast engine computes what the class does: the decoder's last
            state times the head, one attention window, and nothing else.
    """

    model_type: str
    name: str
    class_name: str
    linears: tuple[str, ...] = _SPLIT
    norms: tuple[str, ...] = _NORMS
    attention_bias: bool | None = None
    tied_by_default: bool = False
    attention: str = "sdpa"
    is_scored_fast: bool = False

    @property
    def is_fused(self) -> bool:
        """Whether q, k and v are one module, and gate and up another."""
        return self.linears is not _SPLIT

    @property
    def leaves(self) -> tuple[str, ...]:
        """The last parts of the names of the linear modules, such as ``qkv_proj``."""
        return tuple(name.rpartition(".")[2] for name in self.linears)


PHI3 = Architecture(
    model_type="phi3",
    name="Phi-3",
    class_name="Phi3ForCausalLM",
    linears=("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    is_scored_fast=True,
)
LLAMA = Architecture(
    model_type="llama", name="Llama", class_name="LlamaForCausalLM", is_scored_fast=True
)
MISTRAL = Architecture(
    model_type="mistral",
    name="Mistral",
    class_name="MistralForCausalLM",
    attention_bias=False,
    is_scored_fast=True,
)

_ALL = (
    PHI3,
    LLAMA,
    MISTRAL,
    Architecture(
        model_type="qwen2", name="Qwen2", class_name="Qwen2ForCausalLM", attention_bias=True
    ),
    Architecture(
        model_type="qwen3",
        name="Qwen3",
        class_name="Qwen3ForCausalLM",
        norms=(*_NORMS, *_QK_NORMS),
    ),
    Architecture(
        model_type="gemma", name="Gemma", class_name="GemmaForCausalLM", tied_by_default=True
    ),
    Architecture(
        model_type="gemma2",
        name="Gemma 2",
        class_name="Gemma2ForCausalLM",
        norms=_GEMMA_NORMS,
        tied_by_default=True,
        attention="eager",  # sdpa has no soft cap on the scores
    ),
    Architecture(
        model_type="gemma3_text",
        name="Gemma 3",
        class_name="Gemma3ForCausalLM",
        norms=(*_GEMMA_NORMS, *_QK_NORMS),
        tied_by_default=True,
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({a.model_type: a for a in _ALL})
"""The known architectures by model type."""

FUSED_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
)
"""Phi-3's fused projections, with the split ones whose rows each stacks, in this order."""

FUSED_OF: Mapping[str, str] = MappingProxyType(
    {part: fused for fused, parts in FUSED_PARTS.items() for part in parts}
)
"""The fused projection that contains each split one."""


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture that a config.json names, or None if it is not in the table."""
    name = config.get("model_type")
    return ARCHITECTURES.get(name) if isinstance(name, str) else None


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head of the model that a config.json describes is its embedding table."""
    architecture = architecture_of(config)
    default = architecture is not None and architecture.tied_by_default
    value = config.get("tie_word_embeddings")
    return default if value is None else bool(value)
