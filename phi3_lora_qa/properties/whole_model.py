"""Properties of a whole model with an adapter, which single layers cannot show.

The models compute in float64. There is no useful bound on the rounding of a whole model, so where
results cannot be bitwise equal they may differ by 2⁻³² of the largest logit. That is a million
times the unit roundoff of float64, and far below the effect of any mistake.
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
        seed: Seed of the weights of base and adapter, none of which is zero.
    """

    phi3: Any
    lora: Any
    batch: "Batch"
    seed: int

    def __repr__(self) -> str:
        defaults, fields = type(self.lora)().to_dict(), self.lora.to_dict()
        lora = {name: value for name, value in fields.items() if value != defaults.get(name)}
        return (
            f"ModelCase(phi3={self.phi3.to_diff_dict()}, lora={lora}, "
            f"ids={self.batch.input_ids.tolist()}, mask={self.batch.attention_mask.tolist()}, "
            f"seed={self.seed})"
        )


class ModelUnderTest(ABC):
    """A model with an adapter, as a library creates it."""

    known_failures: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def cases(cls) -> "st.SearchStrategy[ModelCase]":
        """Return the strategy for its cases."""

    @classmethod
    @abstractmethod
    def build(cls, case: ModelCase) -> Self:
        """Build the model with the adapter, filled from the seed, in eval mode."""

    @classmethod
    @abstractmethod
    def base_logits(cls, case: ModelCase) -> Array:
        """Return the logits (rows, tokens, vocabulary) of the base without any adapter."""

    @abstractmethod
    def logits(self, ids: Any, mask: Any) -> Array:
        """Return the logits (rows, tokens, vocabulary), float64."""

    @abstractmethod
    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        """Return the logits with the adapter disabled."""

    @abstractmethod
    def merge_and_unload(self) -> Self:
        """Return the model with the adapter merged and unloaded."""

    @abstractmethod
    def unload(self) -> Self:
        """Return the base, recovered from the model."""

    @abstractmethod
    def save_and_load(self, name: str) -> tuple[Self, bool]:
        """Save the adapter and load it as ``name``; also return whether it saves to equal files."""

    @abstractmethod
    def scalings(self) -> Mapping[str, tuple[int, float]]:
        """Return rank and scaling of each adapted module, by its path in the base."""

    @abstractmethod
    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Return the base's parameters before and after one optimizer step on the adapter."""


@layer_property(of=ModelUnderTest)
def model_disabling_restores_the_base(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """With the adapter disabled the logits are bitwise the base's; enabled they differ."""
    built = kind.build(case)
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    base = kind.base_logits(case)
    yield compare("a logit with the adapter disabled", built.logits_disabled(ids, mask), base)
    changed = bool((built.logits(ids, mask) != base).any())
    yield check_statement("the enabled adapter changes the logits", changed)


@layer_property(of=ModelUnderTest)
def model_merged_output_matches_unmerged(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Merged and unloaded, the model outputs the same logits as with the separate adapter."""
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    before = kind.build(case).logits(ids, mask)
    yield _close(
        "a logit of the merged model", kind.build(case).merge_and_unload().logits(ids, mask), before
    )


@layer_property(of=ModelUnderTest)
def model_unloading_restores_the_base(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """After the adapter is unloaded, the logits are bitwise the base's."""
    if case.lora.modules_to_save:
        return  # PEFT leaves fully trained modules in the model
    found = kind.build(case).unload().logits(case.batch.input_ids, case.batch.attention_mask)
    yield compare("a logit after unloading", found, kind.base_logits(case))


@layer_property(of=ModelUnderTest)
def model_save_load_round_trip_is_exact(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Saved and loaded, also under another name, logits and files are bitwise equal."""
    built = kind.build(case)
    if _order_matters(case, built):
        return  # model_pattern_order_survives_saving covers it
    yield from _save_and_load(built, case)


@layer_property(of=ModelUnderTest)
def model_pattern_order_survives_saving(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Where two patterns match a module the first one wins, also after saving and loading."""
    modules = list(kind.build(case).scalings())
    overlapping = copy.deepcopy(case.lora)
    overlapping.rank_pattern = {modules[0].rpartition(".")[2]: 1, modules[0]: 2}
    changed = replace(case, lora=overlapping)
    if case.lora.init_lora_weights == "orthogonal":
        return  # which supports only even ranks
    yield from _save_and_load(kind.build(changed), changed)


def _save_and_load(built: ModelUnderTest, case: ModelCase) -> Iterator[Comparison]:
    ids, mask = case.batch.input_ids, case.batch.attention_mask
    before = built.logits(ids, mask)
    for name in ("default", "another"):
        loaded, stable = built.save_and_load(name)
        yield compare(f"a logit after loading as {name}", loaded.logits(ids, mask), before)
        what = f"the adapter loaded as {name} is saved as the same bytes"
        yield check_statement(what, stable)


@layer_property(of=ModelUnderTest)
def model_scalings_follow_the_patterns(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """Every module has the rank and the scaling that r, alpha and the patterns give it."""
    lora = _scaling_config(case.lora)
    for module, (rank, scaling) in kind.build(case).scalings().items():
        expected = module_scaling(module, lora)
        found = np.array([rank, scaling])
        target = np.array([expected.rank, expected.scaling])
        yield compare(f"rank or scaling of {module}", found, target, 2.0**-50 * target)


@layer_property(of=ModelUnderTest)
def model_training_leaves_the_base_unchanged(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """One optimizer step leaves every parameter of the base bitwise unchanged."""
    before, after = kind.build(case).base_before_and_after_step()
    for name, values in before.items():
        yield compare(f"the base's {name} after a step", after[name], values)


@layer_property(of=ModelUnderTest)
def model_output_is_invariant_to_padding(
    kind: type[ModelUnderTest], case: ModelCase, draw: Draw
) -> Iterator[Comparison]:
    """A row alone gives the same logits as among padded rows."""
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
    """Return whether sorting the patterns by name would change the result for some module."""
    plain = _scaling_config(case.lora)
    by_name = replace(
        plain,
        rank_pattern=dict(sorted(plain.rank_pattern.items())),
        alpha_pattern=dict(sorted(plain.alpha_pattern.items())),
    )
    return any(module_scaling(m, plain) != module_scaling(m, by_name) for m in built.scalings())


def _close(what: str, found: Array, expected: Array) -> Comparison:
    return compare(what, found, expected, MARGIN * max(1.0, float(np.abs(expected).max())))
