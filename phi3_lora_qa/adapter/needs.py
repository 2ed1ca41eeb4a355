"""The parts of an adapter and its base that a lint rule may need to run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

OptionalNeed = Literal[
    "base", "base weights", "tokenizer", "base's tokenizer", "manifest", "parent"
]
"""A part that a good adapter may lack."""

Need = Literal[
    "LoRA adapter of PEFT",
    "base that the adapter is for",
    "config",
    "weights",
    "expected tensors",
    OptionalNeed,
]
"""A part of the `LintContext` that a rule may need to run."""

IDENTITY: Mapping[Need, str] = MappingProxyType(
    {
        "LoRA adapter of PEFT": "files-format",
        "base that the adapter is for": "config-other-base",
    }
)
"""What must be true before the content can be judged, with the rule that reports otherwise."""

OPTIONAL: tuple[Need, ...] = get_args(OptionalNeed)
"""Every part that a good adapter may lack."""

LIBRARIES: Literal["tokenizer libraries"] = "tokenizer libraries"
"""What else a rule may lack, since the package alone does not bring it."""
