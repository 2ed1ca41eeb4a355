"""The parts of the linter's input that a rule may need to run."""

from typing import Literal

Need = Literal[
    "config",
    "weights",
    "expected tensors",
    "base",
    "base weights",
    "tokenizer",
    "base's tokenizer",
    "manifest",
    "parent",
]
"""A part of the `LintContext` that a rule may need to run."""

OPTIONAL: tuple[Need, ...] = (
    "base", "base weights", "tokenizer", "base's tokenizer", "manifest", "parent",
)  # fmt: skip
"""The parts that a good adapter may lack."""
