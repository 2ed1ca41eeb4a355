"""Family basemodel: transformers knows the base's rotary embedding.

The types and their fields are those of transformers 5.23 (modeling_rope_utils, configuration_phi3).
Phi-3 knows longrope only. It renames "su" and "yarn", the type's former names, but fills in the
original length, which longrope needs, before it does, and only for "yarn" and "longrope".
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.architecture import PHI3
from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse, base_rule
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.finding import FieldOf, Violation

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}
"""The fields that each type must have, besides those that transformers fills in."""

_LENGTH = "original_max_position_embeddings"
_LISTS = ("short_factor", "long_factor")


@base_rule(
    "basemodel-rope",
    title="The base's rotary embedding is one that transformers knows, with all of its fields",
    why="transformers cannot build the model, and shows no more than the name of a missing field.",
    fix="use the config.json that belongs to the base",
    blocks=(BaseUse.LOADING,),
)
def rope_is_known(base: BaseView) -> Iterator[Violation]:
    """Check the type and the fields of rope_scaling, or of rope_parameters."""
    config = base.files.config
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    settings = config.get(name)
    if not settings:
        return
    if not isinstance(settings, dict):
        yield Violation(
            FieldOf("config.json", name),
            f"it must be an object or null: got {type(settings).__name__}",
        )
        return
    is_phi3 = config.get("model_type") == PHI3.model_type
    nested = {key: part for key, part in settings.items() if isinstance(part, dict)}
    for place, part in (nested or {"": settings}).items():
        field = f"{name}.{place}" if place else name
        for message, fix in _faults(part, config, name, is_phi3=is_phi3):
            yield Violation(FieldOf("config.json", field), message, fix)


def _faults(
    settings: Mapping[str, Any], config: Mapping[str, Any], name: str, *, is_phi3: bool
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with one set of fields, and its fix (empty for the rule's)."""
    key = "rope_type" if "rope_type" in settings else "type"
    kind = settings.get(key, "default")
    known = ("default", "longrope") if is_phi3 else tuple(_NEEDED)
    if kind == "su" or (kind == "yarn" and is_phi3 and _has_lists(settings)):
        if kind == "su" and not (is_phi3 and _LENGTH in settings):
            yield (
                'the type is "su", the former name of "longrope", of which transformers no longer '
                "fills in all fields",
                f'set {key} in {name} to "longrope" in the base\'s config.json',
            )
        kind = "longrope"
    elif not isinstance(kind, str) or kind not in known:
        yield (
            f"the type is {kind!r}, which transformers does not know for this model",
            f"use one of {', '.join(known)}, with the fields that belong to it",
        )
        return
    missing = [field for field in _NEEDED[kind] if settings.get(field) is None]
    if missing:
        yield f"it lacks {' and '.join(missing)}, which {kind} needs", ""
    if kind == "longrope":
        yield from _wrong_lists(settings, config)


def _has_lists(settings: Mapping[str, Any]) -> bool:
    return all(settings.get(field) is not None for field in _LISTS)


def _wrong_lists(
    settings: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    size = _rotated(settings, config) // 2
    for field in _LISTS:
        values = settings.get(field)
        if values is None:
            continue
        if not isinstance(values, list) or not all(map(_is_factor, values)):
            yield f"{field} must be a list of positive numbers", ""
        elif size and len(values) != size:
            yield f"{field} has {len(values)} numbers, and the model needs {size}", ""


def _rotated(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many elements of a head are rotated; 0 if that is not known."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    part = settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if type(hidden) is not int or type(heads) is not int or heads < 1 or not _is_factor(part):
        return 0
    head = config.get("head_dim") if config.get("model_type") != PHI3.model_type else None
    return int((head if type(head) is int else hidden // heads) * part)


def _is_factor(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
