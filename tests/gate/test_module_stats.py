"""The largest error is kept, whatever the module, row or block that it is in."""

import numpy as np
import pytest

from phi3_lora_qa.gate import module_stats
from phi3_lora_qa.gate.module_stats import largest_of, max_error, rows_of
from phi3_lora_qa.gate.weight_streaming import stream_layers
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession


def test_a_nan_is_the_largest_error() -> None:
    found = max_error(np.array([0.5, np.nan, 0.1]), np.ones(3))
    assert np.isnan(found.error)
    assert found.ratio == np.inf


def test_a_bound_of_zero_allows_no_error() -> None:
    assert max_error(np.zeros(2), np.zeros(2)).ratio == 0.0
    assert max_error(np.array([1e-30]), np.zeros(1)).ratio == np.inf


def test_the_largest_of_several_is_bounded_if_one_of_them_is() -> None:
    open_, held, missed = (
        max_error(np.array([error]), np.array([bound]))
        for error, bound in ((3.0, np.inf), (1.0, 2.0), (3.0, 2.0))
    )
    assert largest_of([open_, held, missed, held]) == missed
    assert largest_of([held, open_]) == held
    assert not largest_of([open_, open_]).is_bounded
    assert largest_of([open_, max_error(np.zeros(1), np.ones(1))]).is_bounded


def test_rows_keep_what_belongs_to_them() -> None:
    f = Factors(
        A=np.ones((1, 2)),
        B=np.array([[1.0], [2.0], [3.0]]),
        scaling=2.0,
        magnitude=np.array([4.0, 5.0, 6.0]),
        bias=np.array([7.0, 8.0, 9.0]),
    )
    part = rows_of(f, np.array([0, 2]))
    assert part.B.tolist() == [[1.0], [3.0]]
    assert part.magnitude is not None
    assert part.magnitude.tolist() == [4.0, 6.0]
    assert part.bias is not None
    assert part.bias.tolist() == [7.0, 9.0]
    assert part.A is f.A


def test_an_error_in_any_row_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_stats, "BLOCK", 1000)
    session = make_session()
    with quiet():
        layer = next(iter(stream_layers(session.job.require_base(), session.adapter, "float32")))
        B = layer.layer.lora_B["default"].weight.data
        draw = np.random.default_rng
        assert module_stats._measure(layer, draw(0), scaled=True).delta.ratio < 1
        for row in (0, len(B) // 2, len(B) - 1):
            kept, B[row] = B[row].clone(), B[row] * 1.001
            spoilt = module_stats._measure(layer, draw(0), scaled=True)
            assert spoilt.scaled is not None
            assert min(spoilt.delta.ratio, spoilt.scaled.ratio) > 1
            B[row] = kept
        A = layer.layer.lora_A["default"].weight.data
        A += 1e-3
        assert module_stats._measure(layer, draw(0), scaled=False).rank.ratio > 1


def test_every_module_is_measured_and_some_are_scaled(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_stats, "SCALED_MODULES", 3)
    session = make_session()
    with quiet():
        found = session.measure_modules()
    assert [m.name for m in found] == sorted(session.adapter.factors)
    assert sum(m.scaled is not None for m in found) == 3
