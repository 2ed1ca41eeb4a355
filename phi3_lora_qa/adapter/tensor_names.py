"""The grammar of tensor names in an adapter file, and what a name that is not in it once was.

peft loads a file with a wrong prefix or suffix, warns at most, and runs the bare base model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

PREFIX = "base_model.model."
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
MAX_NAME = 512
DEFAULT_ADAPTER = "default"
"""The adapter name that peft gives; keys which hold it load as if it were not there."""


class Part(StrEnum):
    """Which tensor of a module it is; the value is the end of its name."""

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
"""What training moves and every forward pass uses; the other parts only serve training."""

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
    """A name that is in the grammar. ``module`` is the name in the base model."""

    name: str
    module: str
    part: Part
    adapter: str = ""

    @property
    def canonical(self) -> str:
        """The name as peft writes it."""
        return f"{PREFIX}{self.module}.{self.part}"


@dataclass(frozen=True, kw_only=True)
class BadKey:
    """A name that is not in the grammar: why, how to mend it, and what it would be then."""

    name: str
    cause: str
    fix: str
    mended: str = ""


def tensor_name(module: str, part: Part) -> str:
    """Return the name that peft gives to a part of a module of the base."""
    return f"{PREFIX}{module}.{part}"


def parse_key(name: str) -> TensorKey | BadKey:
    """Read one tensor name."""
    key = _parse(name)
    if key is None or _wrapped(key.module):
        return _diagnose(name)
    if key.adapter not in ("", DEFAULT_ADAPTER):
        cause = f"the adapter's own name, {key.adapter}, was left in it"
        return _renamed(name, cause, key.canonical)
    return key


def parse_keys(names: Iterable[str]) -> tuple[Mapping[str, TensorKey], tuple[BadKey, ...]]:
    """Read all names: those in the grammar by their canonical form, and those that are not.

    Two names with one canonical form cannot both be meant; the second is a bad one.
    """
    good: dict[str, TensorKey] = {}
    bad: list[BadKey] = []
    for name in names:
        key = parse_key(name)
        if isinstance(key, BadKey):
            bad.append(key)
        elif key.canonical in good:
            cause = f"it means the same tensor as {good[key.canonical].name}"
            bad.append(BadKey(name=name, cause=cause, fix="keep only one of the two"))
        else:
            good[key.canonical] = key
    return good, tuple(bad)


_NAMED = re.compile(r"(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.([A-Za-z0-9_-]+)")
_FOREIGN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")


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
        # lora_A.NAME.weight: the adapter's own name was left in the key.
        head, _, tail = module.rpartition(".lora_")
        named = _NAMED.fullmatch(f"lora_{tail}")
        if not named or not head:
            return None
        inner = named[1] if named[1] == Part.MAGNITUDE else f"{named[1]}.{part}"
        if inner not in set(Part):
            return None
        return TensorKey(name=name, module=head, part=Part(inner), adapter=named[2])
    return TensorKey(name=name, module=module, part=part) if "lora_" not in module else None


def _wrapped(module: str) -> bool:
    parts = module.split(".")
    return any(part in parts for part in _FOREIGN) or parts[0] == "base_model"


_MENDS: tuple[tuple[str, str, str], ...] = (
    (r"(^|\.)_orig_mod(?=\.)", "", "torch.compile wrapped the model when it was saved"),
    (r"(^|\.)_fsdp_wrapped_module(?=\.)", "", "FSDP wrapped the model when it was saved"),
    (r"(^|\.)_checkpoint_wrapped_module(?=\.)", "", "activation checkpointing wrapped the layers"),
    (r"(^|\.)module(?=\.)", "", "DistributedDataParallel wrapped the model when it was saved"),
    (r"^\.", "", ""),
    (r"^(base_model\.model\.){2,}", PREFIX, "a PeftModel stood within another one"),
    (r"\.lora_a(?=\.|$)", ".lora_A", "lora_a is torchtune's or MLX's spelling"),
    (r"\.lora_b(?=\.|$)", ".lora_B", "lora_b is torchtune's or MLX's spelling"),
    (r"\.lora_down(?=\.|$)", ".lora_A", "lora_down is kohya's name of lora_A"),
    (r"\.lora_up(?=\.|$)", ".lora_B", "lora_up is kohya's name of lora_B"),
    (r"(\.lora_[AB])$", r"\1.weight", "the ending .weight is missing"),
    (r"(\.lora_embedding_[AB])\.weight$", r"\1", "embedding factors have no .weight"),
    (r"^(?!base_model\.)", PREFIX, "the beginning base_model.model. is missing"),
    (r"^base_model\.(?!model\.)", PREFIX, "the beginning must be base_model.model."),
)


def _diagnose(name: str) -> BadKey:
    """Undo what is known to spoil names, until the name is in the grammar."""
    if len(name) > MAX_NAME:
        return BadKey(name=name, cause="it is far too long", fix=_SAVE_AGAIN)
    mended, causes = name, []
    for pattern, replacement, cause in _MENDS:
        changed = re.sub(pattern, replacement, mended)
        if changed != mended and cause:
            causes.append(cause)
        mended = changed
    key = _parse(mended)
    if causes and key and key.part in LORA_PARTS and not _wrapped(key.module):
        return _renamed(name, " and ".join(causes), key.canonical)
    return BadKey(name=name, cause="it is no name that peft writes for LoRA", fix=_SAVE_AGAIN)


def _renamed(name: str, cause: str, canonical: str) -> BadKey:
    return BadKey(name=name, cause=cause, fix=f"rename it to {canonical}", mended=canonical)


_SAVE_AGAIN = "save the adapter with peft's save_pretrained, or remove the tensor"
