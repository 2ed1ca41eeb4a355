"""Every value that a property reads can make it fail, by an error slightly above its bound."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from phi3_lora_qa.lora import Array, Factors, format_of
from phi3_lora_qa.properties.layer import Gradients
from phi3_lora_qa.properties.layer_property import UnderTest
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.properties.whole_model import MARGIN, ModelCase
from tests.properties.reference import ReferenceDora, ReferenceLayer, ReferenceModel

pytestmark = pytest.mark.slow

PROPERTIES = {p.id: p for p in all_properties()}
SMALL_ERROR = 8
"""In units of roundoff: no bound is so loose that it hides this error in every case."""
UNUSED = {
    "forward_is_repeatable": {1},  # only its side effects matter
    "initial_output_equals_the_base": {0, 2},  # A, of any size, and its scaling
    "rslora_combination_has_scaling_one": {0, 1},  # A and B
    "initial_gradient_reaches_only_the_zero_factor": {3},  # the base's gradient
    "gradients_match_the_formulas": {0},  # the base's gradient
    "base_receives_no_gradient": {1, 2, 3},  # the adapter's
    "model_disabling_restores_the_base": {2},  # logits that differ from the base's anyway
    "model_save_load_round_trip_is_exact": {0},  # the names of modules
    "model_pattern_order_survives_saving": {0},  # the names of modules
}
"""The values that a property reads but does not compare, by the order of reading."""


class Spoiler:
    """Selects the value to spoil: the ``at``-th of all values that are read in one case."""

    at: ClassVar[int] = -1
    given: ClassVar[int] = 0
    most: ClassVar[int] = 0

    @classmethod
    def begin(cls, case: Any) -> Any:
        Spoiler.given = 0
        return case

    @classmethod
    def one(cls, values: Array, slight: float) -> Array:
        """Spoil the values if they are selected: slightly, or to ones if all are zero."""
        turn, Spoiler.given = Spoiler.given, Spoiler.given + 1
        Spoiler.most = max(Spoiler.most, Spoiler.given)
        if turn != Spoiler.at:
            return values
        return values * (1.0 + slight) if values.any() else values + 1.0

    @classmethod
    def truth(cls) -> bool:
        """Return False if it is selected."""
        return not cls.one(np.zeros(1), 0.0).any()


class Spoiled(ReferenceLayer):
    """Returns correct values, except for one value in each case."""

    @classmethod
    def cases(cls) -> Any:
        return super().cases().map(Spoiler.begin)

    def one(self, values: Array) -> Array:
        return Spoiler.one(values, SMALL_ERROR * format_of(self.case.dtype).unit_roundoff)

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
        frozen = () if Spoiler.truth() else ("weight",)
        found: Gradients = self.parts(super().gradients(x, g), "A", "B", "magnitude", "bias")
        return replace(found, frozen=frozen)

    def trainable_base_parameters(self) -> tuple[str, ...]:
        return () if Spoiler.truth() else ("weight",)

    def output_dtype(self, x: Array, dtype: str) -> str:
        return dtype if Spoiler.truth() else "float64"


class SpoiledDora(Spoiled):
    options = ReferenceDora.options


class SpoiledModel(ReferenceModel):
    """Spoils by slightly more than a model's margin."""

    @classmethod
    def cases(cls) -> Any:
        return super().cases().map(Spoiler.begin)

    @classmethod
    def base_logits(cls, case: ModelCase) -> Array:
        return Spoiler.one(super().base_logits(case), SMALL_ERROR * MARGIN)

    def logits(self, ids: Any, mask: Any) -> Array:
        return Spoiler.one(super().logits(ids, mask), SMALL_ERROR * MARGIN)

    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        return Spoiler.one(super().logits_disabled(ids, mask), SMALL_ERROR * MARGIN)

    def save_and_load(self, name: str) -> tuple[Self, bool]:
        return super().save_and_load(name)[0], Spoiler.truth()

    def scalings(self) -> Mapping[str, tuple[int, float]]:
        pairs = np.array(list(super().scalings().values()))
        spoiled = Spoiler.one(pairs, SMALL_ERROR * 2.0**-50)
        return dict(zip(super().scalings(), spoiled, strict=True))

    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        before, after = super().base_before_and_after_step()
        return before, {name: Spoiler.one(values, 2.0**-50) for name, values in after.items()}


@pytest.mark.parametrize("kind", [Spoiled, SpoiledDora, SpoiledModel])
@pytest.mark.parametrize("prop", PROPERTIES)
def test_every_value_that_a_property_reads_can_make_it_fail(
    kind: type[UnderTest], prop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PROPERTIES[prop].applies(kind):
        return
    unnoticed, read, at = set[int](), 0, -1
    while at < read:
        monkeypatch.setattr(Spoiler, "at", at)
        monkeypatch.setattr(Spoiler, "most", 0)
        try:
            run_property(PROPERTIES[prop], kind, examples=40, shrink=False)
        except PropertyFailed:
            assert at >= 0
        else:
            unnoticed.add(at)
            read = max(read, Spoiler.most)
        at += 1
    assert unnoticed - {-1} <= UNUSED.get(prop, set())
