"""Properties of a whole model with an adapter: what single layers cannot show.

Models compute in float64 here. No analysis bounds the rounding of a whole model usefully, so where
results cannot be equal to the bit they may differ by 2⁻³² of the largest logit: a million times
float64's unit roundoff, and far below what any slip would make.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from phi3_lora_qa.lora import Array, module_scaling
from phi3_lora_qa.lora.scaling import ScalingConfig
from phi3_lora_qa.properties.layer_property import (
    Comparison,
    Draw,
    check_statement,
    compare,
    layer_property,
)

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from phi3_lora_qa.strategies import Batch

MARGIN = 2.0**-32


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """A tiny Phi-3, a LoRA for it, and tokens.

    Attributes:
        phi3: The model's config.
        lora: A LoraConfig that is valid for it.
        batch: Token ids and mask, rows padded on either side.
        seed: Of the base's weights and of the adapter's, none of which is zero.
    """

    phi3: Any
    lora: Any
    batch: "Batch"
    seed: int

    def __repr__(self) -> str:
        usual, given = type(self.lora)().to_dict(), self.lora.to_dict()
        lora = {name: value for name, value in given.items() if value != usual.get(name)}
        return (
            f"ModelCase(phi3={self.phi3.to_diff_dict()}, lora={lora}, "
            f"ids={self.batch.input_ids.tolist()}, mask={self.batch.attention_mask.tolist()}, "
            f"seed={self.seed})"
        )


class ModelUnderTest(ABC):
    """A model with an adapter, as a library makes it."""

    known_failures: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def cases(cls) -> "st.SearchStrategy[ModelCase]":
        """What to build it from."""

    @classmethod
    @abstractmethod
    def build(cls, case: ModelCase) -> Self:
        """Build the model with the adapter, filled from the seed, in eval mode."""

    @classmethod
    @abstractmethod
    def base_logits(cls, case: ModelCase) -> Array:
        """Logits (rows, tokens, vocabulary) of the base that never saw an adapter."""

    @abstractmethod
    def logits(self, ids: Any, mask: Any) -> Array:
        """Logits (rows, tokens, vocabulary), float64."""

    @abstractmethod
    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        """Logits with the adapter disabled."""

    @abstractmethod
    def merge_and_unload(self) -> Self:
        """The model with the adapter merged and unloaded."""

    @abstractmethod
    def unload(self) -> Self:
        """The base, got back from the model."""

    @abstractmethod
    def save_and_load(self, name: str) -> tuple[Self, bool]:
        """The adapter saved and loaded as ``name``, and whether saving that gives equal files."""

    @abstractmethod
    def scalings(self) -> Mapping[str, tuple[int, float]]:
        """Rank and scaling of each adapted module, by its path in the base."""

    @abstractmethod
    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """The base's parameters before and after one optimizer step on the adapter."""


@layer_property(of=ModelUnderTest)
def model_disabling_restores_the_base(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """With the adapter disabled the logits are the base's, to the bit; enabled they differ."""
    built = kind.build(case)
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    base = kind.base_logits(case)
    yield compare("a logit with the adapter off", built.logits_disabled(ids, mask), base)
    yield check_statement(
        "the adapter changes the logits:", bool((built.logits(ids, mask) != base).any())
    )


@layer_property(of=ModelUnderTest)
def model_merged_output_matches_unmerged(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Merged and unloaded, the model puts out what it did with the adapter beside it."""
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    before = kind.build(case).logits(ids, mask)
    yield _close(
        "a logit of the merged model", kind.build(case).merge_and_unload().logits(ids, mask), before
    )


@layer_property(of=ModelUnderTest)
def model_unloading_restores_the_base(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """After the adapter was unloaded the logits are the base's, to the bit."""
    if case.lora.modules_to_save:
        return  # PEFT leaves modules that were trained whole in the model
    found = kind.build(case).unload().logits(case.batch.input_ids, case.batch.attention_mask)
    yield compare("a logit after unloading", found, kind.base_logits(case))


@layer_property(of=ModelUnderTest)
def model_save_load_round_trip_is_exact(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Saved and loaded, under another name too, logits are equal to the bit, and so are files."""
    built = kind.build(case)
    if _order_matters(case, built):
        return  # the next property's
    yield from _saved_and_loaded(built, case)


@layer_property(of=ModelUnderTest)
def model_pattern_order_survives_saving(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Where two patterns match a module the first one counts, after saving and loading too."""
    modules = list(kind.build(case).scalings())
    ordered = copy.deepcopy(case.lora)
    ordered.rank_pattern = {modules[0].rpartition(".")[2]: 1, modules[0]: 2}
    twice = replace(case, lora=ordered)
    if case.lora.init_lora_weights == "orthogonal":
        return  # which knows even ranks only
    yield from _saved_and_loaded(kind.build(twice), twice)


def _saved_and_loaded(built: ModelUnderTest, case: ModelCase) -> Iterator[Comparison]:
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    before = built.logits(ids, mask)
    for name in ("default", "another"):
        loaded, stable = built.save_and_load(name)
        yield compare(f"a logit after loading as {name}", loaded.logits(ids, mask), before)
        yield check_statement(f"what was loaded as {name} is saved as the same bytes:", stable)


@layer_property(of=ModelUnderTest)
def model_scalings_follow_the_patterns(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Every module has the rank and the scaling that r, alpha and the patterns give it."""
    lora = _scaling_config(case.lora)
    for module, (rank, scaling) in kind.build(case).scalings().items():
        expected = module_scaling(module, lora)
        found = np.array([rank, scaling])
        wanted = np.array([expected.rank, expected.scaling])
        yield compare(f"rank or scaling of {module}", found, wanted, 2.0**-50 * wanted)


@layer_property(of=ModelUnderTest)
def model_training_leaves_the_base_unchanged(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """One optimizer step leaves every parameter of the base as it is, to the bit."""
    before, after = kind.build(case).base_before_and_after_step()
    for name, values in before.items():
        yield compare(f"the base's {name} after a step", after[name], values)


@layer_property(of=ModelUnderTest)
def model_output_is_invariant_to_padding(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """A row alone gives the logits that it has among padded rows."""
    if (case.phi3.rope_parameters or {}).get("rope_type", "default") != "default":
        return  # longrope's factors depend on the length of the longest row, by design
    built = kind.build(case)
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    together = built.logits(ids, mask)
    for row, real in enumerate(mask.astype(bool)):
        alone = built.logits(ids[row : row + 1, real], mask[row : row + 1, real])
        yield _close("a logit of a padded row", together[row, real], alone[0])


def _scaling_config(lora: Any) -> ScalingConfig:
    return ScalingConfig(
        rank=lora.r,
        alpha=lora.lora_alpha,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
        rslora=lora.use_rslora,
    )


def _order_matters(case: ModelCase, built: ModelUnderTest) -> bool:
    """Whether the patterns, sorted by name, would mean something else for some module."""
    plain = _scaling_config(case.lora)
    by_name = replace(
        plain,
        rank_pattern=dict(sorted(plain.rank_pattern.items())),
        alpha_pattern=dict(sorted(plain.alpha_pattern.items())),
    )
    return any(module_scaling(m, plain) != module_scaling(m, by_name) for m in built.scalings())


def _close(what: str, found: Array, expected: Array) -> Comparison:
    return compare(what, found, expected, MARGIN * max(1.0, float(np.abs(expected).max())))
