import numpy as np
import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import FORMATS, format_of, gamma, ratios, round_to
from tests.lora.drawing import to_numpy

LIMITS = {
    "float64": (2.0**-53, 1.7976931348623157e308, 2.0**-1022),
    "float32": (2.0**-24, 3.4028234663852886e38, 2.0**-126),
    "float16": (2.0**-11, 65504.0, 2.0**-25),
    "bfloat16": (2.0**-8, 3.3895313892515355e38, 2.0**-126),
}


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_format_has_the_limits_of_the_standard(
    dtype: str,
) -> None:
    form = FORMATS[dtype]
    assert (form.unit_roundoff, form.largest, form.underflow_error) == LIMITS[dtype]


def test_an_unknown_dtype_is_named_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match="unknown dtype: 'int8'; use one of float64, "):
        format_of("int8")


def test_gamma_is_n_u_over_one_minus_n_u() -> None:
    assert gamma(3, "float16") == 3 / 2048 / (1 - 3 / 2048)
    assert gamma(np.array([0, 1]), "bfloat16").tolist() == [0.0, (1 / 256) / (255 / 256)]


def test_gamma_is_infinite_for_as_many_terms_as_one_over_u() -> None:
    assert gamma(255, "bfloat16") == 255.0
    assert gamma(256, "bfloat16") == np.inf
    assert gamma(300, "bfloat16") == np.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounding_matches_torchs_cast_from_subnormals_to_overflow(dtype: str) -> None:
    import torch

    rng = np.random.default_rng(0)
    kind = getattr(torch, dtype)
    span = {"float16": (-30, 18)}.get(dtype, (-155, 129))
    values = rng.standard_normal(20000) * 2.0 ** rng.integers(*span, 20000)
    if dtype != "float32":
        # torch casts float64 by way of float32, so ties are those of float32 numbers.
        values = round_to(values, "float32")
    expected = to_numpy(torch.from_numpy(values).to(kind))
    assert np.isinf(expected).any()
    assert (np.abs(values[expected == 0]) > 0).any()
    assert np.array_equal(round_to(values, dtype), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_a_format_and_every_tie_rounds_as_torch_rounds_it(dtype: str) -> None:
    import torch

    bits = torch.arange(0, 2**15, dtype=torch.int32).to(torch.int16)
    numbers = to_numpy(bits.view(getattr(torch, dtype)))
    numbers = numbers[np.isfinite(numbers)]
    assert np.array_equal(round_to(numbers, dtype), numbers)
    ties = (numbers[:-1] + numbers[1:]) / 2
    assert np.array_equal(
        round_to(ties, dtype), to_numpy(torch.from_numpy(ties).to(getattr(torch, dtype)))
    )


def test_rounding_keeps_signs_and_gives_infinity_beyond_the_range() -> None:
    given = np.array([-70000.0, 65519.9, 65520.0, -0.1, 0.0, 1.0])
    expected = [-np.inf, 65504.0, np.inf, -0.0999755859375, 0.0, 1.0]
    assert round_to(given, "float16").tolist() == expected


def test_float64_numbers_round_to_themselves() -> None:
    values = np.array([0.1, -1e308, 5e-324, 0.0])
    assert np.array_equal(round_to(values, "float64"), values)


def test_a_ratio_is_error_over_bound_and_zero_without_error() -> None:
    found = ratios(np.array([0.0, 0.0, 1.0, 1.0, 3.0]), np.array([0.0, 2.0, 2.0, 0.0, np.inf]))
    assert found.tolist() == [0.0, 0.0, 0.5, np.inf, 0.0]


def test_a_nan_error_is_an_infinite_ratio() -> None:
    assert ratios(np.array([np.nan, np.inf]), np.array([1.0, np.inf])).tolist() == [np.inf, np.inf]
