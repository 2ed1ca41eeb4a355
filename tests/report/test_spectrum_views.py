"""Spectra gathered by the kind of module, in the order of the layers."""

import math
from dataclasses import replace

from phi3_lora_qa.report.spectrum_views import kind_views
from tests.report.builders import KINDS, spectra


def test_modules_are_gathered_by_kind_from_the_first_layer_to_the_last() -> None:
    views = kind_views(spectra(layers=12)[::-1])
    assert {view.name for view in views} == {kind.rsplit(".", 1)[-1] for kind in KINDS}
    for view in views:
        layers = [int(module.module.split(".")[2]) for module in view.modules]
        assert layers == list(range(12))
        assert (view.smallest, view.largest) == (
            view.modules[0].frobenius,
            view.modules[-1].frobenius,
        )


def test_the_decay_is_the_mean_of_the_shares_of_the_largest_value() -> None:
    first, second = spectra(layers=2)[0], spectra(layers=2)[len(KINDS)]
    modules = [
        replace(first, singular_values=[4.0, 2.0, 1.0]),
        replace(second, singular_values=[1.0, 0.0]),
    ]
    (view,) = kind_views(modules)
    assert view.decay.path.count("M") == 2
    assert "v-28" in view.decay.path
    assert "v-7" in view.decay.path  # a quarter of 28


def test_a_module_without_values_is_shown_and_a_nan_is_counted() -> None:
    module = spectra()[0]
    (view,) = kind_views([replace(module, singular_values=[], frobenius=math.nan)])
    assert (view.decay.path, view.norms.not_finite) == ("", 1)
