"""Strategies for LoRA configs that peft accepts for a given Phi-3."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import strategies as st

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.libraries import is_older
from phi3_lora_qa.strategies.arrays import alphas, require_known

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import Phi3Config

Variant = Literal["plain", "dora", "mica", "lora_bias"]

VARIANTS: tuple[Variant, ...] = ("plain", "dora", "mica", "lora_bias")

_MODULE_PATHS = {
    "qkv_proj": "self_attn.qkv_proj",
    "o_proj": "self_attn.o_proj",
    "gate_up_proj": "mlp.gate_up_proj",
    "down_proj": "mlp.down_proj",
}
_INITS: dict[Variant, tuple[bool | str, ...]] = {
    "plain": (True, False, "gaussian", "orthogonal"),
    "dora": (True, False, "gaussian", "orthogonal"),
    "mica": ("mica",),
    "lora_bias": (True, False),
}
"""Initializations that leave the base unchanged. The others (PiSSA, OLoRA, …) change it, so a saved
adapter belongs to a different base."""
_MAX_RANK = 8


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Config fields that select the adapted linear layers, and the names of these layers."""

    fields: dict[str, Any]
    modules: tuple[str, ...]


@st.composite
def lora_configs(
    draw: st.DrawFn,
    config: "Phi3Config",
    *,
    mergeable: bool = True,
    variants: Sequence[Variant] = VARIANTS,
) -> "LoraConfig":
    """Draw a LoraConfig that is valid for a Phi-3; simplest: rank and alpha 1 on one projection.

    Layers are selected by suffixes (in some layers or in all), by one full name, by a regular
    expression, or by all-linear, with or without exclusions. The token tables may be adapted,
    trained in full, or trained for some tokens; tied tables only for some tokens, since peft would
    untie them. All rank and alpha patterns match adapted layers. No initialization changes the
    base.

    Args:
        draw: Supplied by hypothesis.
        config: The model's config.
        mergeable: Whether peft must be able to merge the adapter. It cannot with lora_bias, since
            Phi-3's linear layers have no bias.
        variants: The variants to draw from, simplest first: plain, dora, mica (peft 0.20 or later),
            lora_bias.

    Returns:
        A peft.LoraConfig.

    Raises:
        InputError: A variant is unknown, or no variant is left.

    Example:
        >>> from hypothesis import given, settings, strategies as st
        >>> @settings(max_examples=1, database=None, deadline=None)
        ... @given(st.data())
        ... def test(data):
        ...     config = data.draw(phi3_configs())
        ...     assert data.draw(lora_configs(config, variants=["dora"])).use_dora
        >>> test()
    """
    from peft import LoraConfig

    chosen = _usable(variants, mergeable=mergeable)
    initializations = [(variant, init) for variant in chosen for init in _INITS[variant]]
    variant, init = draw(st.sampled_from(initializations))
    targets = draw(_targets(config))
    step = 2 if init == "orthogonal" else 1
    ranks = st.integers(1, _MAX_RANK // step).map(lambda half: half * step)
    patterns = st.sampled_from(_patterns(targets.modules))
    fields: dict[str, Any] = {
        "r": draw(ranks),
        "lora_alpha": draw(alphas()),
        "lora_dropout": draw(st.sampled_from((0.0, 0.1))),
        "use_rslora": draw(st.booleans()),
        "use_dora": variant == "dora",
        "lora_bias": variant == "lora_bias",
        "init_lora_weights": init,
        "rank_pattern": draw(st.dictionaries(patterns, ranks, max_size=2)),
        "alpha_pattern": draw(st.dictionaries(patterns, alphas(), max_size=2)),
    }
    extras = draw(_extras(config, targets, variant, init))
    return LoraConfig(task_type="CAUSAL_LM", **(fields | targets.fields | extras))


def _usable(variants: Sequence[Variant], *, mergeable: bool) -> list[Variant]:
    """Return the variants that the installed peft supports and, if required, can merge."""
    for variant in variants:
        require_known("variant", variant, VARIANTS)
    chosen = [variant for variant in variants if not (mergeable and variant == "lora_bias")]
    if is_older("peft", "0.20"):
        chosen = [variant for variant in chosen if variant != "mica"]
    if not chosen:
        raise InputError(
            f"lora_configs: no usable variant in {', '.join(variants)}: lora_bias cannot be merged "
            "into a Phi-3, and mica needs peft 0.20; pass mergeable=False or another variant"
        )
    return chosen


@st.composite
def _targets(draw: st.DrawFn, config: "Phi3Config") -> _Targets:
    form = draw(st.sampled_from(("suffixes", "name", "regex", "all-linear")))
    layers = list(range(config.num_hidden_layers))
    some = draw(st.none() | st.lists(st.sampled_from(layers), min_size=1, unique=True))
    suffixes = draw(st.lists(st.sampled_from(tuple(_MODULE_PATHS)), min_size=1, unique=True))
    fields: dict[str, Any]
    if form == "name":
        modules = _modules((some or layers)[:1], suffixes[:1])
        return _Targets(fields={"target_modules": list(modules)}, modules=modules)
    if form == "all-linear":
        some, suffixes = None, list(_MODULE_PATHS)
        fields = {"target_modules": form}
    elif form == "regex":
        numbers = "|".join(map(str, some)) if some else r"\d+"
        fields = {"target_modules": rf".*\.({numbers})\.\w+\.({'|'.join(suffixes)})"}
    else:
        fields = {"target_modules": suffixes, "layers_to_transform": some}
    excluded = draw(st.none() | st.sampled_from(suffixes[1:])) if suffixes[1:] else None
    if excluded:
        kept = [suffix for suffix in suffixes if suffix != excluded]
        fields["exclude_modules"] = draw(st.sampled_from(([excluded], rf".*\.{excluded}")))
        return _Targets(fields=fields, modules=_modules(some or layers, kept))
    return _Targets(fields=fields, modules=_modules(some or layers, suffixes))


@st.composite
def _extras(
    draw: st.DrawFn,
    config: "Phi3Config",
    targets: _Targets,
    variant: Variant,
    init: bool | str,
) -> dict[str, Any]:
    """Draw what else is trained: the token tables and the norms."""
    adapted, tokens = [], {}
    saved = draw(st.sampled_from(((), ("norm",), ("input_layernorm",))))
    listed = targets.fields.get("layers_to_transform", ()) is None
    for table in ("lm_head", "embed_tokens"):
        uses = ["none", "tokens", "saved"]
        # An embedding supports neither lora_bias nor the orthogonal initialization.
        whole = table == "lm_head" or (variant != "lora_bias" and init != "orthogonal")
        if listed and whole:
            uses.append("adapted")
        if config.tie_word_embeddings:
            uses = uses[:2] if table == "embed_tokens" else uses[:1]
        use = draw(st.sampled_from(uses))
        if use == "adapted":
            adapted.append(table)
        elif use == "saved":
            saved = (*saved, table)
        elif use == "tokens":
            ids = st.integers(0, config.vocab_size - 1)
            tokens[table] = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    # Drawn even if there is no choice, so that shrinking does not prefer a case without it.
    short_form = draw(st.booleans()) and list(tokens) == ["embed_tokens"]
    fields: dict[str, Any] = {
        "modules_to_save": list(saved) or None,
        "trainable_token_indices": tokens["embed_tokens"] if short_form else tokens or None,
    }
    if adapted:
        fields["target_modules"] = [*targets.fields["target_modules"], *adapted]
    return fields


def _modules(layers: Sequence[int], suffixes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"model.layers.{i}.{_MODULE_PATHS[suffix]}" for i in layers for suffix in suffixes)


def _patterns(modules: Sequence[str]) -> list[str]:
    """Return keys for rank_pattern that match some of the modules: by suffix, full name, regex."""
    first = modules[0]
    suffixes = dict.fromkeys(name.rpartition(".")[2] for name in modules)
    return [*suffixes, first, rf"^{first}", rf"layers\.\d+\.\w+\.{first.rpartition('.')[2]}"]
