"""Whatever a property reads of a layer can break it, by a few roundings more than its bound."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from phi3_lora_qa.lora import Array, Factors, format_of
from phi3_lora_qa.properties.catalogue import all_properties
from phi3_lora_qa.properties.layer import Gradients
from phi3_lora_qa.properties.layer_property import UnderTest
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.properties.whole_model import MARGIN, ModelCase
from tests.properties.reference import ReferenceDora, ReferenceLayer, ReferenceModel

pytestmark = pytest.mark.slow

PROPERTIES = {p.id: p for p in all_properties()}
SLIGHT = 8
"""Units roundoff: no bound of a property is so loose that it hides this on every case."""
UNUSED = {
    "forward_is_repeatable": {1},  # made for what it may leave behind
    "initial_output_equals_the_base": {0, 2},  # A, of any size, and its scaling
    "rslora_combination_has_scaling_one": {0, 1},  # A and B
    "initial_gradient_reaches_only_the_zero_factor": {3},  # the base's gradient
    "gradients_match_the_formulas": {0},  # the base's gradient
    "base_receives_no_gradient": {1, 2, 3},  # the adapter's
    "model_disabling_restores_the_base": {2},  # logits that differ from the base's anyway
    "model_save_load_round_trip_is_exact": {0},  # the names of modules
    "model_pattern_order_survives_saving": {0},  # the names of modules
}
"""What a property reads of a layer and has no use for, by the order in which it is read."""


class Turns:
    """Whose turn it is to be spoiled: of all that is read of one case, the ``at``-th."""

    at: ClassVar[int] = -1
    given: ClassVar[int] = 0
    most: ClassVar[int] = 0

    @classmethod
    def begin(cls, case: Any) -> Any:
        Turns.given = 0
        return case

    @classmethod
    def one(cls, values: Array, slight: float) -> Array:
        """Spoil values if it is their turn: slightly, or to something where all are zero."""
        turn, Turns.given = Turns.given, Turns.given + 1
        Turns.most = max(Turns.most, Turns.given)
        if turn != Turns.at:
            return values
        return values * (1.0 + slight) if values.any() else values + 1.0

    @classmethod
    def truth(cls) -> bool:
        """Return False if it is its turn."""
        return not cls.one(np.zeros(1), 0.0).any()


class Spoiled(ReferenceLayer):
    """Gives back everything as it is, but for one thing in each case."""

    @classmethod
    def cases(cls) -> Any:
        return super().cases().map(Turns.begin)

    def one(self, values: Array) -> Array:
        return Turns.one(values, SLIGHT * format_of(self.case.dtype).unit_roundoff)

    def parts(self, found: Any, *names: str) -> Any:
        held = {n: getattr(found, n) for n in names if getattr(found, n) is not None}
        return replace(found, **{n: self.one(np.asarray(v))[()] for n, v in held.items()})

    def forward(self, x: Array) -> Array:
        return self.one(super().forward(x))

    def forward_mixed(self, x: Array, names: tuple[str, ...]) -> Array:
        return self.one(super().forward_mixed(x, names))

    def weight(self) -> Array:
        return self.one(super().weight())

    def delta(self) -> Array:
        return self.one(super().delta())

    def factors(self) -> Factors:
        found: Factors = self.parts(super().factors(), "A", "B", "scaling")
        return found

    def combine_adapters(
        self, names: tuple[str, ...], weights: tuple[float, ...], how: str
    ) -> Factors:
        found: Factors = self.parts(
            super().combine_adapters(names, weights, how), "A", "B", "scaling"
        )
        return found

    def gradients(self, x: Array, g: Array) -> Gradients:
        frozen = () if Turns.truth() else ("weight",)
        found: Gradients = self.parts(super().gradients(x, g), "A", "B", "magnitude", "bias")
        return replace(found, frozen=frozen)

    def trainable_base_parameters(self) -> tuple[str, ...]:
        return () if Turns.truth() else ("weight",)

    def output_dtype(self, x: Array, dtype: str) -> str:
        return dtype if Turns.truth() else "float64"


class SpoiledDora(Spoiled):
    options = ReferenceDora.options


class SpoiledModel(ReferenceModel):
    """Spoils by a little more than a model's margin."""

    @classmethod
    def cases(cls) -> Any:
        return super().cases().map(Turns.begin)

    @classmethod
    def base_logits(cls, case: ModelCase) -> Array:
        return Turns.one(super().base_logits(case), SLIGHT * MARGIN)

    def logits(self, ids: Any, mask: Any) -> Array:
        return Turns.one(super().logits(ids, mask), SLIGHT * MARGIN)

    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        return Turns.one(super().logits_disabled(ids, mask), SLIGHT * MARGIN)

    def save_and_load(self, name: str) -> tuple[Self, bool]:
        return super().save_and_load(name)[0], Turns.truth()

    def scalings(self) -> Mapping[str, tuple[int, float]]:
        pairs = np.array(list(super().scalings().values()))
        spoiled = Turns.one(pairs, SLIGHT * 2.0**-50)
        return dict(zip(super().scalings(), spoiled, strict=True))

    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        before, after = super().base_before_and_after_step()
        return before, {name: Turns.one(values, 2.0**-50) for name, values in after.items()}


@pytest.mark.parametrize("kind", [Spoiled, SpoiledDora, SpoiledModel])
@pytest.mark.parametrize("tested", PROPERTIES)
def test_whatever_a_property_reads_can_break_it(
    kind: type[UnderTest], tested: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PROPERTIES[tested].applies(kind):
        return
    unnoticed, read, at = set[int](), 0, -1
    while at < read:
        monkeypatch.setattr(Turns, "at", at)
        monkeypatch.setattr(Turns, "most", 0)
        try:
            run_property(PROPERTIES[tested], kind, examples=40, shrink=False)
        except PropertyFailed:
            assert at >= 0
        else:
            unnoticed.add(at)
            read = max(read, Turns.most)
        at += 1
    assert unnoticed - {-1} <= UNUSED.get(tested, set())
