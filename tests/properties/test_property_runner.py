"""The result of a property: passed, failed, or not applicable."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Comparison, Property, compare
from phi3_lora_qa.properties.peft_layers import PeftLinear
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import (
    PROFILES,
    PropertyFailed,
    PropertyResult,
    run_property,
)

PROPERTIES = {prop.id: prop for prop in all_properties()}


def made(*errors: float, bound: float = 1.0) -> Property:
    def check(layer: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        for error in errors:
            yield compare("it", np.array([error]), np.zeros(1), bound)

    return Property(id="made", summary="It is.", needs=frozenset(), check=check, of=Layer)


def test_the_largest_ratio_is_returned() -> None:
    result = run_property(made(0.25, 0.5, 0.125), PeftLinear, examples=3)
    assert (result.cases, result.ratio) == (3, 0.5)


def test_an_error_as_large_as_its_bound_is_allowed() -> None:
    assert run_property(made(1.0), PeftLinear, examples=1).ratio == 1.0


@pytest.mark.parametrize("error", [1.5, float("nan"), float("inf")])
def test_an_error_beyond_its_bound_fails(error: float) -> None:
    with pytest.raises(PropertyFailed, match="made failed for PeftLinear: it is off by"):
        run_property(made(error), PeftLinear, examples=1)


def test_a_property_that_does_not_apply_has_no_cases() -> None:
    assert run_property(made(), PeftLinear, examples=3) == PropertyResult(cases=0, ratio=0.0)
    # Only DoRA has magnitudes.
    assert run_property(PROPERTIES["merged_row_norms_equal_dora_magnitudes"], PeftLinear).cases == 0


def test_an_exception_in_the_layer_fails() -> None:
    def check(layer: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        yield compare("it", np.zeros(1), np.zeros(1))
        raise RuntimeError("no such layer")

    raising = Property(id="made", summary="It is.", needs=frozenset(), check=check, of=Layer)
    with pytest.raises(PropertyFailed, match="it raised RuntimeError: no such layer"):
        run_property(raising, PeftLinear, examples=1)


def test_the_same_seed_draws_the_same_cases() -> None:
    first, second = (
        run_property(PROPERTIES["forward_adds_the_delta"], PeftLinear, seed=3) for _ in range(2)
    )
    assert first == second
    assert first.ratio > 0
    other = run_property(PROPERTIES["forward_adds_the_delta"], PeftLinear, seed=4)
    assert other.ratio != first.ratio


@pytest.mark.parametrize(
    ("bound", "difference"),
    [(0.5, "0.75, but rounding allows only 0.5"), (0.0, "0.75, but rounding allows no error")],
)
def test_a_failure_shows_the_example_and_the_command_that_repeats_it(
    bound: float, difference: str
) -> None:
    prop = made(0.25 * bound, 0.75, bound=bound)
    with pytest.raises(PropertyFailed) as broken:
        run_property(prop, PeftLinear, rerun_command="pytest this")
    lines = str(broken.value).splitlines()
    assert lines[0] == f"made failed for PeftLinear: it is off by {difference}"
    assert lines[1] == "  property: It is."
    # The smallest case of all, as every one fails it.
    assert lines[2].startswith("  example: LayerCase(dtype='float32', weight=array([[1.0]]), base_")
    assert lines[3] == "  rerun with: pytest this"


def test_a_layer_with_changing_results_fails() -> None:
    calls = iter([2.0])

    def check(layer: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        yield compare("it", np.array([next(calls, 0.0)]), np.zeros(1), 1.0)

    changing = Property(id="made", summary="It is.", needs=frozenset(), check=check, of=Layer)
    with pytest.raises(PropertyFailed, match="once but not again: the layer's results change"):
        run_property(changing, PeftLinear)


def test_constants_in_the_users_modules_do_not_change_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypothesis would draw them, so that imports would change the cases."""

    def drawn() -> list[str]:
        cases = []

        def check(layer: Any, case: Any, draw: Any) -> Iterator[Comparison]:
            cases.append(repr(case))
            yield compare("it", np.zeros(1), np.zeros(1))

        noting = Property(id="made", summary="It is.", needs=frozenset(), check=check, of=Layer)
        run_property(noting, PeftLinear, examples=60)
        return cases

    before = drawn()
    numbers = ", ".join(f"{1009 * n}, {n}.123" for n in range(1, 60))
    (tmp_path / "numbers_of_a_user.py").write_text(f"NUMBERS = [{numbers}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("numbers_of_a_user")
    assert drawn() == before


def test_an_exception_while_drawing_is_not_reported_with_the_previous_case() -> None:
    class Failing(PeftLinear):
        drawn = iter([True])

        @classmethod
        def cases(cls) -> Any:
            return super().cases().map(lambda case: case if next(cls.drawn, False) else 1 / 0)

    with pytest.raises(PropertyFailed, match="ZeroDivisionError") as broken:
        run_property(made(0.5), Failing)
    assert "  example: None" in str(broken.value)


def test_the_page_states_how_many_cases_are_drawn() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to-layers.md").read_text(encoding="utf-8")
    assert f"{PROFILES['default'].examples} cases" in page
    assert f"{PROFILES['thorough'].examples:,}" in page
