"""Math stage: does the adapter, as PEFT computes it, do what its files say?

The expected values come from the files in float64 (``phi3_lora_qa.lora``); PEFT's come from the
attached model. hypothesis draws modules and inputs; every bound comes from rounding analysis.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.gate.layers import LoraLayer, lora_layers
from phi3_lora_qa.lora import Array
from phi3_lora_qa.record import Spectrum

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

EXAMPLES = 25
LARGEST_RATIO = 10.0
MEND_PEFT = "the installed peft does not do what the files say; pin a version that does"


def checks() -> tuple[Check, ...]:
    """Return the stage's checks."""
    return tuple(
        check_of("math", function)
        for function in (
            delta_is_scaling_times_b_times_a,
            rank_is_bounded,
            delta_is_linear_in_alpha,
            forward_adds_the_delta,
            update_is_in_proportion,
        )
    )


def delta_is_scaling_times_b_times_a(bench: Bench) -> Held:
    """PEFT's delta equals scaling · B·A from the files."""

    def measure(layer: LoraLayer) -> tuple[Array, Array]:
        error = np.abs(layer.peft_delta() - lora.delta(layer.factors))
        return error, lora.delta_bound(layer.factors, layer.dtype)

    return _every_drawn_module(bench, measure, "PEFT's delta differs from scaling · B·A", MEND_PEFT)


def rank_is_bounded(bench: Bench) -> Held:
    """The columns of PEFT's delta lie in the r-dimensional column space of B."""

    def measure(layer: LoraLayer) -> tuple[Array, Array]:
        found = layer.peft_delta()
        basis = np.linalg.qr(layer.factors.B).Q
        outside = np.linalg.norm(found - basis @ (basis.T @ found))
        # Rounding of the projection itself: float64 on a matrix of this size.
        projection = lora.gamma(sum(found.shape), "float64") * np.linalg.norm(found)
        allowed = np.linalg.norm(lora.delta_bound(layer.factors, layer.dtype)) + projection
        return np.array([outside]), np.array([allowed])

    return _every_drawn_module(bench, measure, "the delta's rank exceeds r", MEND_PEFT)


def delta_is_linear_in_alpha(bench: Bench) -> Held:
    """Twice (half, minus once) the scaling gives twice (half, minus once) the delta."""
    factors_drawn = (2.0, 0.5, -1.0, 3.0)

    def measure(layer: LoraLayer) -> tuple[Array, Array]:
        errors, allowed = [], []
        for factor in factors_drawn:
            f = layer.factors
            scaled = replace(f, scaling=factor * f.scaling)
            errors.append(np.abs(layer.peft_delta(factor) - lora.delta(scaled)))
            allowed.append(lora.delta_bound(scaled, layer.dtype))
        return np.stack(errors), np.stack(allowed)

    return _every_drawn_module(bench, measure, "the delta is not linear in alpha", MEND_PEFT)


def forward_adds_the_delta(bench: Bench) -> Held:
    """For drawn inputs a module's output is W·x + scaling · B·(A·x), DoRA's where there is m."""

    def measure(layer: LoraLayer, x: Array) -> tuple[Array, Array]:
        weight, f = layer.base_weight(), layer.factors
        error = np.abs(layer.forward(x) - lora.output(weight, f, x))
        return error, lora.forward_bound(weight, f, x, layer.dtype)

    layers = lora_layers(bench)
    worst = _Worst()

    def draw(data: "DataObject") -> None:
        from hypothesis import strategies as st

        layer = data.draw(st.sampled_from(layers))
        seed = data.draw(st.integers(0, 2**31 - 1))
        size = data.draw(st.sampled_from([1e-3, 1.0, 100.0]))
        worst.add(layer.name, *measure(layer, layer.draw_input(seed, size)))

    _draw(draw, bench.run.settings.seed)
    return worst.verdict("a module's output is not W·x + scaling · B·A·x", MEND_PEFT, len(layers))


def update_is_in_proportion(bench: Bench) -> Held:
    """No update dwarfs the weight that it updates, and every module's spectrum is recorded.

    RMSNorm renormalises what an exploded layer puts out, so logits barely show it; the ratio of
    the spectral norms ‖delta‖ / ‖W‖ does.
    """
    spectra, worst_ratio, worst_name = [], 0.0, ""
    for layer in lora_layers(bench):
        values = lora.singular_values(layer.factors)
        ratio = float(values[0]) / max(layer.base_norm(), 1e-30)
        ratio = float(np.nan_to_num(ratio, nan=np.inf))
        if ratio > worst_ratio:
            worst_ratio, worst_name = ratio, layer.name
        spectra.append(
            Spectrum(
                module=layer.name,
                rank=layer.factors.rank,
                scaling=layer.factors.scaling,
                frobenius=float(np.linalg.norm(values)),
                stable_rank=lora.stable_rank(values),
                singular_values=[float(v) for v in values],
            )
        )
    bench.add_spectra(spectra)
    measured = {"largest_ratio": worst_ratio, "module": worst_name, "limit": LARGEST_RATIO}
    if worst_ratio > LARGEST_RATIO:
        raise CheckFailedError(
            f"the update of {worst_name} is {worst_ratio:.3g} times as large as the weight that it "
            f"updates (spectral norms; at most {LARGEST_RATIO:g})",
            "train with a lower learning rate or alpha; compare lora_alpha with the training run's",
            measured,
        )
    return Held(
        message=f"the largest ‖delta‖/‖W‖ of {len(spectra)} modules is {worst_ratio:.3g}",
        measured=measured,
    )


class _Worst:
    """Keeps the case where the error comes nearest to its bound, or passes it."""

    def __init__(self) -> None:
        self.ratio, self.error, self.bound, self.name, self.cases = 0.0, 0.0, 0.0, "", 0
        self.seen: set[str] = set()

    def add(self, name: str, error: Array, bound: Array) -> None:
        self.cases += 1
        self.seen.add(name)
        ratios = lora.ratios(error, bound)
        where = int(np.argmax(ratios))
        ratio = float(ratios.flat[where])
        if ratio > self.ratio:
            self.ratio, self.name = ratio, name
            self.error, self.bound = float(error.flat[where]), float(bound.flat[where])

    def verdict(self, fault: str, fix: str, modules: int) -> Held:
        measured = {
            "module": self.name,
            "error": self.error,
            "bound": self.bound,
            "ratio": self.ratio,
            "cases": self.cases,
            "modules": modules,
            "modules_drawn": len(self.seen),
        }
        if self.ratio > 1.0:
            raise CheckFailedError(
                f"{fault}: in {self.name} by {self.error:.3g}, where rounding allows "
                f"{self.bound:.3g}",
                fix,
                measured,
            )
        return Held(
            message=f"{self.cases} cases on {len(self.seen)} of {modules} modules; the largest "
            f"error is {self.ratio:.2g} of its bound",
            measured=measured,
        )


def _every_drawn_module(
    bench: Bench,
    measure: Callable[[LoraLayer], tuple[Array, Array]],
    fault: str,
    fix: str,
) -> Held:
    """Measure modules that hypothesis draws, each of them once."""
    layers, worst, seen = lora_layers(bench), _Worst(), set[str]()

    def draw(data: "DataObject") -> None:
        from hypothesis import strategies as st

        layer = data.draw(st.sampled_from(layers))
        if layer.name not in seen:
            seen.add(layer.name)
            worst.add(layer.name, *measure(layer))

    _draw(draw, bench.run.settings.seed)
    return worst.verdict(fault, fix, len(layers))


def _draw(test: Callable[["DataObject"], None], seed: int) -> None:
    """Run ``test`` on EXAMPLES draws from the seed, without hypothesis's database or deadline.

    The profile is set here in full, so that a user's own hypothesis settings change nothing.
    """
    import hypothesis
    from hypothesis import strategies as st

    configured: Any = hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(configured(hypothesis.given(st.data())(test)))()
