"""Parses tensor names of an adapter file, and suggests corrections for invalid names.

peft loads a file with a wrong prefix or suffix, warns at most, and runs the base model unchanged.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "base_model.model."
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
MAX_NAME = 512
DEFAULT_ADAPTER = "default"
"""peft's default adapter name; a key that contains it loads as if it did not."""


class Part(StrEnum):
    """Which tensor of a module this is; the value is the suffix of its name."""

    A = "lora_A.weight"
    B = "lora_B.weight"
    B_BIAS = "lora_B.bias"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    VELORA = "lora_velora_embed"
    EXPERTS = "lora_monteclora_sampler.expert_weights"
    EXPERTS_PRIOR = "lora_monteclora_sampler.expert_weights_prior"
    VARIANCE_PRIOR = "lora_monteclora_sampler.gaussian_var_prior"
    DEVIATION_PRIOR = "lora_monteclora_sampler.std_prior"
    TOKENS = "token_adapter.trainable_tokens_delta"
    BASE_WEIGHT = "base_layer.weight"
    BASE_BIAS = "base_layer.bias"
    WEIGHT = "weight"
    BIAS = "bias"


FACTORS = (Part.A, Part.B, Part.EMBEDDING_A, Part.EMBEDDING_B)
TRAINED = (*FACTORS, Part.B_BIAS, Part.MAGNITUDE, Part.TOKENS)
"""The parts that are trained and used in every forward pass; the others only serve training."""

LORA_PARTS = (
    *TRAINED,
    Part.VELORA,
    Part.EXPERTS,
    Part.EXPERTS_PRIOR,
    Part.VARIANCE_PRIOR,
    Part.DEVIATION_PRIOR,
)


@dataclass(frozen=True, kw_only=True)
class TensorKey:
    """A valid tensor name. ``module`` is the module's name in the base model."""

    name: str
    module: str
    part: Part
    adapter: str = ""

    @property
    def canonical(self) -> str:
        """The name in the form that peft writes."""
        return f"{PREFIX}{self.module}.{self.part}"


@dataclass(frozen=True, kw_only=True)
class BadKey:
    """An invalid tensor name: why, how to fix it, and the corrected name ("" if unknown)."""

    name: str
    cause: str
    fix: str
    corrected: str = ""


def tensor_name(module: str, part: Part) -> str:
    """Return peft's name for a part of a module of the base."""
    return f"{PREFIX}{module}.{part}"


def parse_key(name: str) -> TensorKey | BadKey:
    """Parse one tensor name."""
    key = _parse(name)
    if key is None or _has_wrapper(key.module):
        return _diagnose(name)
    if key.adapter not in ("", DEFAULT_ADAPTER):
        cause = f"it contains the adapter name {key.adapter}"
        return _renamed(name, cause, key.canonical)
    return key


def parse_keys(names: Iterable[str]) -> tuple[Mapping[str, TensorKey], tuple[BadKey, ...]]:
    """Parse all names: the valid ones by canonical form, and the invalid ones.

    If two names have the same canonical form, the second is invalid.
    """
    good: dict[str, TensorKey] = {}
    bad: list[BadKey] = []
    for name in names:
        key = parse_key(name)
        if isinstance(key, BadKey):
            bad.append(key)
        elif key.canonical in good:
            cause = f"it names the same tensor as {good[key.canonical].name}"
            bad.append(BadKey(name=name, cause=cause, fix="keep only one of the two"))
        else:
            good[key.canonical] = key
    return good, tuple(bad)


_NAMED_FACTOR = re.compile(
    r"(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.([A-Za-z0-9_-]+)"
)
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")


def _parse(name: str) -> TensorKey | None:
    if len(name) > MAX_NAME or not name.startswith(PREFIX):
        return None
    rest = name[len(PREFIX) :]
    for part in Part:
        if rest.endswith(f".{part}"):
            return _key(name, rest[: -len(part) - 1], part)
    if rest.endswith(".lora_magnitude_vector.weight"):
        return _key(name, rest[: -len(".lora_magnitude_vector.weight")], Part.MAGNITUDE)
    return None


def _key(name: str, module: str, part: Part) -> TensorKey | None:
    if not _MODULE.fullmatch(module):
        return None
    if part in (Part.WEIGHT, Part.BIAS) and "lora_" in module:
        # lora_A.NAME.weight: the key contains the adapter name.
        head, _, tail = module.rpartition(".lora_")
        named = _NAMED_FACTOR.fullmatch(f"lora_{tail}")
        if not named or not head:
            return None
        inner = named[1] if named[1] == Part.MAGNITUDE else f"{named[1]}.{part}"
        if inner not in set(Part):
            return None
        return TensorKey(name=name, module=head, part=Part(inner), adapter=named[2])
    return TensorKey(name=name, module=module, part=part) if "lora_" not in module else None


def _has_wrapper(module: str) -> bool:
    parts = module.split(".")
    return any(part in parts for part in _WRAPPERS) or parts[0] == "base_model"


_NAME_FIXES: tuple[tuple[str, str, str], ...] = (
    (r"(^|\.)_orig_mod(?=\.)", "", "torch.compile wrapped the model when it was saved"),
    (r"(^|\.)_fsdp_wrapped_module(?=\.)", "", "FSDP wrapped the model when it was saved"),
    (r"(^|\.)_checkpoint_wrapped_module(?=\.)", "", "activation checkpointing wrapped the layers"),
    (r"(^|\.)module(?=\.)", "", "DistributedDataParallel wrapped the model when it was saved"),
    (r"^\.", "", ""),
    (r"^(base_model\.model\.){2,}", PREFIX, "a PeftModel was wrapped in a PeftModel"),
    (r"\.lora_a(?=\.|$)", ".lora_A", "lora_a is the spelling of torchtune and MLX"),
    (r"\.lora_b(?=\.|$)", ".lora_B", "lora_b is the spelling of torchtune and MLX"),
    (r"\.lora_down(?=\.|$)", ".lora_A", "lora_down is kohya's name for lora_A"),
    (r"\.lora_up(?=\.|$)", ".lora_B", "lora_up is kohya's name for lora_B"),
    (r"(\.lora_[AB])$", r"\1.weight", "the suffix .weight is missing"),
    (r"(\.lora_embedding_[AB])\.weight$", r"\1", "embedding factors have no suffix .weight"),
    (r"^(?!base_model\.)", PREFIX, "the prefix base_model.model. is missing"),
    (r"^base_model\.(?!model\.)", PREFIX, "the prefix must be base_model.model."),
)


def _diagnose(name: str) -> BadKey:
    """Apply the known corrections, and suggest the result if it is a valid name."""
    if len(name) > MAX_NAME:
        return BadKey(
            name=name,
            cause=f"it has {len(name)} characters, at most {MAX_NAME} are allowed",
            fix=_SAVE_AGAIN,
        )
    corrected, causes = name, []
    for pattern, replacement, cause in _NAME_FIXES:
        changed = re.sub(pattern, replacement, corrected)
        if changed != corrected and cause:
            causes.append(cause)
        corrected = changed
    key = _parse(corrected)
    if causes and key and key.part in LORA_PARTS and not _has_wrapper(key.module):
        return _renamed(name, " and ".join(causes), key.canonical)
    return BadKey(
        name=name, cause="it is not a tensor name that peft writes for LoRA", fix=_SAVE_AGAIN
    )


def _renamed(name: str, cause: str, canonical: str) -> BadKey:
    return BadKey(name=name, cause=cause, fix=f"rename it to {canonical}", corrected=canonical)


_SAVE_AGAIN = "save the adapter with peft's save_pretrained, or remove the tensor"
