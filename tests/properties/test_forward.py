"""Properties of the forward pass on correct layers, and mistakes that they find."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.lora import Array, Factors
from phi3_lora_qa.properties import forward
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties.comparisons import PROPERTIES, check_comparisons, compared, properties_of
from tests.properties.reference import ReferenceDora, ReferenceLayer

pytestmark = pytest.mark.slow

FACTORS = ("2", "0.5", "-1", "3", "0")
COMPARED: dict[str, list[str]] = {
    "forward_adds_the_delta": ["the output"],
    "forward_is_linear_in_scaling": [
        *(f"the output at {k} times the scaling" for k in FACTORS),
        "the output after the scale was reset",
    ],
    "forward_is_repeatable": ["the output of the second call"],
    "batch_rows_are_independent": [
        "the output of a shuffled batch",
        "the output of one row alone",
    ],
    "disabling_restores_the_base": [
        "the output with the adapter disabled",
        "the output with the adapter enabled again",
    ],
    "output_dtype_matches_the_base": [
        f"the output's dtype is {dtype} (found: {dtype})"
        for dtype in ("float32", "float16", "bfloat16")
    ],
    "save_load_round_trip_is_exact": [
        f"{part} after loading" for part in ("A", "B", "the scaling", "the output")
    ],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(forward) == set(COMPARED)


def test_a_forward_pass_with_memory_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ReferenceLayer.forward

    def changed(self: Any, x: Array) -> Array:
        last, self.last = getattr(self, "last", x), x
        return right(self, x + 0.5 * (last - x))

    monkeypatch.setattr(ReferenceLayer, "forward", changed)
    with pytest.raises(PropertyFailed, match="the output of the second call is off"):
        run_property(PROPERTIES["forward_is_repeatable"], ReferenceLayer)


@pytest.mark.parametrize("size", [0.125, 8.0])
def test_dora_is_not_scaled_until_its_rows_have_no_direction(size: float) -> None:
    """W + k · delta is (1 - 0.4 · k) · W: at k = 2 and 3 less than a fifth of both lengths."""
    weight, A = np.array([[size, 0.0]]), np.array([[1.0, 0.0]])

    class Cancelling(ReferenceDora):
        @classmethod
        def cases(cls) -> Any:
            return super().cases().map(
                lambda case: replace(
                    case, dtype="float32", weight=weight, base_bias=None, x=np.ones((1, 2)),
                    factors=Factors(A=A, B=np.array([[-0.4 * size]]), scaling=1.0,
                                    magnitude=np.ones(1)),
                )
            )  # fmt: skip

    seen = compared("forward_is_linear_in_scaling", Cancelling)
    where = {f"the output at {k} times the scaling" for k in ("0.5", "-1", "0")}
    assert seen == where | {"the output after the scale was reset"}
