"""The layout of a base, by the names of the modules that an adapter has factors for."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from phi3_lora_qa.adapter.architecture import FUSED_OF, FUSED_PARTS, LLAMA, PHI3

_TABLE_NAMES = ("embed_tokens", "lm_head", "unembed_tokens")
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_DECODER = re.compile(r"(|model\.|model\.model\.)layers\.N\.(.+)")


class Layout(StrEnum):
    """Which decoder layers the names fit.

    SHARED names (o_proj and down_proj) fit both layouts, and MIXED ones are of both.
    """

    FUSED = "fused"
    SPLIT = "split"
    SHARED = "shared"
    MIXED = "mixed"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class ModuleLayout:
    """The layout of an adapter's modules.

    Attributes:
        layout: The layout.
        family: For OTHER, the model that has such names; empty if it is not known.
        count: The number of modules.
        names: Their distinct names without the layer, shortest first; those that show the layout.
        is_whole: Whether every name is complete, so that a causal language model has it.
    """

    layout: Layout
    family: str = ""
    count: int = 0
    names: tuple[str, ...] = ()
    is_whole: bool = True

    @property
    def is_fused_for_sure(self) -> bool:
        """Whether only a Phi-3 has the names: qkv_proj occurs in no other known architecture."""
        return self.layout is Layout.FUSED and "qkv_proj" in self.names


_OTHERS = (
    (r"transformer\.(encoder\.)?layers\.N\.(self_)?attention\.", "ChatGLM"),
    (r"(encoder|decoder)\.block\.N\.layer\.", "T5"),
    (r"(^|\.)decoder\.layers\.N\.encoder_attn\.|(^|\.)encoder\.layers\.N\.",
     "an encoder-decoder such as BART or Whisper"),
    (r"(^|\.)decoder\.layers\.N\.(self_attention|mlp\.linear_fc)", "Megatron"),
    (r"(^|\.)decoder\.layers\.N\.", "OPT"),
    (r"gpt_neox\.layers\.N\.", "GPT-NeoX"),
    (r"distilbert\.|transformer\.layer\.N\.(attention\.[qkv]_lin|ffn\.)", "DistilBERT"),
    (r"(vit|vision_model|visual|vision_tower)\.|patch_embed", "a vision model"),
    (r"(down|up|mid)_blocks?\.|attn\d\.to_[qkv]|transformer_blocks\.", "a diffusion model"),
    (r"wav2vec2|hubert|feature_extractor", "a speech model"),
    (r"encoder\.layer\.N\.", "BERT"),
    (r"(language_model|text_model|thinker|llm)\.", "a multimodal model"),
    (r"linear_attn\.", "a hybrid such as Qwen3-Next"),
    (r"mixer\.Wqkv|transformer\.h\.N\.mlp\.fc\d", "the first Phi-1.5 and Phi-2"),
    (r"(mixer|mamba)\.(in_proj|x_proj|dt_proj|out_proj)|backbone\.layers", "a state-space model"),
    (r"transformer\.blocks\.N\.", "MPT"),
    (r"transformer\.h\.N\.self_attention\.", "BLOOM or Falcon"),
    (r"transformer\.h\.N\.self_attn\.query_key_value", "the first Phi-1.5 and Phi-2"),
    (r"transformer\.h\.N\.attn\.qkv_proj", "CodeGen"),
    (r"transformer\.h\.N\.mlp\.w\d", "Qwen"),
    (r"transformer\.h\.N\.(attn\.(attention\.)?(\w+_proj)|mlp\.fc_(in|out))(?<!c_proj)",
     "GPT-J or GPT-Neo"),
    (r"(^|\.)h\.N\.(attn|mlp|crossattention)\.(c_attn|c_proj|c_fc|q_attn)", "GPT-2"),
    (r"W_pack", "Baichuan"),
    (r"attention\.w(qkv|o)$|feed_forward\.w\d", "InternLM2"),
    (r"(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj)", "DeepSeek-V2 or V3"),
    (r"block_sparse_moe|\.experts(\.|$)|shared_expert", "a mixture of experts"),
    (r"layers\.N\.mlp\.c_(fc|proj)", "StarCoder2"),
    (r"layers\.N\.(self_attn\.(dense|query_key_value)|mlp\.fc\d)", "Phi-1.5 or Phi-2"),
    (r"layers\.N\.attention\.(q|k|v|query|qkv)", "another architecture"),
)  # fmt: skip


def module_layout(modules: Iterable[str]) -> ModuleLayout:
    """Return the layout of modules, by their names in the base.

    Example:
        >>> module_layout(["model.layers.0.self_attn.q_proj"]).layout
        <Layout.SPLIT: 'split'>
        >>> module_layout(["transformer.h.0.attn.c_attn"]).family
        'GPT-2'
    """
    kinds: dict[str, int] = {}
    for module in modules:
        kind = _NUMBER.sub(".N", module)
        if kind.rpartition(".")[2] not in _TABLE_NAMES:
            kinds[kind] = kinds.get(kind, 0) + 1
    count = sum(kinds.values())
    decoder = {kind: found for kind in kinds if (found := _DECODER.fullmatch(kind))}
    known = {
        kind: found
        for kind, found in decoder.items()
        if found[2] in (*PHI3.linears, *LLAMA.linears)
    }
    fitting = sum(kinds[kind] for kind in known)
    if not count or 2 * fitting < count or not known:
        return _other(kinds, count)
    leaves = {kind.rpartition(".")[2] for kind in known}
    fused, split = leaves & set(FUSED_PARTS), leaves & set(FUSED_OF)
    layout = (
        Layout.MIXED
        if fused and split
        else Layout.FUSED
        if fused
        else Layout.SPLIT
        if split
        else Layout.SHARED
    )
    # A few foreign modules next to the usual ones: StarCoder2 and Phi-2 have q_proj, too.
    if layout in (Layout.SPLIT, Layout.SHARED) and len(known) < len(kinds):
        rest = {kind: number for kind, number in kinds.items() if kind not in known}
        if family := _family(rest):
            return ModuleLayout(
                layout=Layout.OTHER, family=family, count=count, names=_leaves(rest)
            )
    return ModuleLayout(
        layout=layout,
        count=count,
        names=tuple(sorted(fused or split or leaves)),
        is_whole=all(found[1] == "model." for found in known.values()),
    )


def _other(kinds: dict[str, int], count: int) -> ModuleLayout:
    family = _family(kinds)
    known = {*PHI3.leaves, *LLAMA.leaves}
    leaves = {kind.rpartition(".")[2] for kind in kinds}
    is_other = bool(family) or (bool(leaves) and not leaves & known)
    return ModuleLayout(
        layout=Layout.OTHER if is_other else Layout.UNKNOWN,
        family=family,
        count=count,
        names=_leaves(kinds),
    )


def _family(kinds: Iterable[str]) -> str:
    listed = list(kinds)
    for pattern, family in _OTHERS:
        if any(re.search(pattern, kind) for kind in listed):
            return family
    return ""


def _leaves(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the last parts of names; two parts if the last is only a number or a letter."""
    parts = (kind.split(".") for kind in kinds)
    shown = (".".join(part[-2:]) if len(part[-1]) < 3 else part[-1] for part in parts)
    return tuple(sorted(set(shown)))
