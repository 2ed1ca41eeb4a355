"""No error of PEFT or loralib exceeds its bound, and no bound is loose."""

import pytest

from tests.lora import combination_oracles, gradient_oracles, loralib_oracles, peft_oracles
from tests.lora.drawing import CASES, DTYPES
from tests.lora.measuring import Oracle, measure, verdict

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oracle", peft_oracles.ORACLES, ids=lambda o: o.__name__)
def test_peft_stays_within_bounds_that_are_tight(oracle: Oracle, dtype: str) -> None:
    assert verdict(measure(oracle, dtype), CASES) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oracle", loralib_oracles.ORACLES, ids=lambda o: o.__name__)
def test_loralib_stays_within_bounds_that_are_tight(oracle: Oracle, dtype: str) -> None:
    assert verdict(measure(oracle, dtype), CASES) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oracle", combination_oracles.ORACLES, ids=lambda o: o.__name__)
def test_combined_adapters_stay_within_bounds_that_are_tight(oracle: Oracle, dtype: str) -> None:
    assert verdict(measure(oracle, dtype), CASES) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oracle", gradient_oracles.ORACLES, ids=lambda o: o.__name__)
def test_pefts_gradients_stay_within_bounds_that_are_tight(oracle: Oracle, dtype: str) -> None:
    assert verdict(measure(oracle, dtype), CASES) == []
