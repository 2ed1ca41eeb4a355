"""A recipe for a hostile folder; it can be printed and parsed."""

import ast
from dataclasses import dataclass
from typing import Any

Step = tuple[Any, ...]
"""A step's name, then its arguments: texts, bytes, integers and tuples of them."""


@dataclass(frozen=True)
class Recipe:
    """A healthy variant, its extra files, the steps that corrupt it, and a base."""

    variant: str
    extras: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    base: str = "whole"

    def __str__(self) -> str:
        return repr((self.variant, self.extras, self.steps, self.base))


def read_recipe(text: str) -> Recipe:
    """Parse the result of ``str(recipe)``."""
    return Recipe(*ast.literal_eval(text))
