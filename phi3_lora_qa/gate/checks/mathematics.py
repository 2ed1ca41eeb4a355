"""Math stage: does the adapter, as PEFT computes it, do what its files say?

The expected values come from the files in float64 (``phi3_lora_qa.lora``); PEFT's come from its own
layers, with the adapter's config, factors and the base's weights in them. Every bound comes from
rounding analysis. The base's weights are read one after another: no model is built.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from phi3_lora_qa.gate.module_stats import ModuleMeasure, Worst
    from phi3_lora_qa.properties import Property
    from phi3_lora_qa.properties.layer_property import UnderTest

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
            layer_properties_hold,
            update_norm_ratio,
        )
    )


def delta_is_scaling_times_b_times_a(bench: Bench) -> Held:
    """PEFT's delta equals scaling · B·A from the files."""
    return _judged(bench, lambda m: m.delta, "PEFT's delta differs from scaling · B·A")


def rank_is_bounded(bench: Bench) -> Held:
    """The rows of PEFT's delta lie in the r-dimensional row space of A."""
    return _judged(bench, lambda m: m.rank, "the delta's rank exceeds r")


def delta_is_linear_in_alpha(bench: Bench) -> Held:
    """Twice (half, minus once) the scaling gives twice (half, minus once) the delta."""
    return _judged(bench, lambda m: m.scaled, "the delta is not linear in alpha")


def forward_adds_the_delta(bench: Bench) -> Held:
    """For drawn inputs a module's output is W·x + scaling · B·(A·x), DoRA's where there is m."""
    return _judged(bench, lambda m: m.forward, "a module's output is not W·x + scaling · B·A·x")


def layer_properties_hold(bench: Bench) -> Held:
    """The properties of `phi3_lora_qa.properties` hold with this adapter's own values.

    hypothesis draws a module and a property; PEFT's layer gets a corner of the module's weight and
    factors, and is merged, unmerged, scaled, switched, trained a step, saved and loaded.
    """
    import hypothesis
    from hypothesis import strategies as st

    from phi3_lora_qa.properties.peft_layers import PeftDora, PeftLinear, PeftMixed
    from phi3_lora_qa.properties.property_runner import isolated

    pieces = [(m.name, m.piece) for m in bench.modules]
    seen: set[tuple[str, str]] = set()
    largest = 0.0

    def draw(data: "st.DataObject") -> None:
        nonlocal largest
        name, case = data.draw(st.sampled_from(pieces))
        low = case.dtype != "float32"
        kind = PeftDora if case.factors.magnitude is not None else PeftMixed if low else PeftLinear
        tested = data.draw(st.sampled_from(_properties(kind)))
        for comparison in tested.check(kind, case, data.draw):
            seen.add((name, tested.id))
            ratio, error, bound = comparison.worst
            largest = max(largest, ratio)
            if not ratio <= 1.0:
                raise CheckFailedError(
                    f"{tested.id} does not hold for {name}: {comparison.difference}",
                    MEND_PEFT,
                    {"module": name, "property": tested.id, "error": error, "bound": bound},
                )

    # The profile is set in full, so that a user's own hypothesis settings change nothing.
    configured = hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with isolated():
        hypothesis.seed(bench.run.settings.seed)(configured(hypothesis.given(st.data())(draw)))()
    properties = {tested for _, tested in seen}
    if not seen:
        raise CheckFailedError(
            "no property that was drawn applies to this adapter",
            "give another --phi3-seed",
            outcome=Outcome.NOT_RUN,
        )
    return Held(
        message=f"{len(properties)} properties held in {len(seen)} drawn cases; the largest error "
        f"is {largest:.2g} of its bound",
        measured={"properties": sorted(properties), "cases": len(seen), "ratio": largest},
    )


def update_norm_ratio(bench: Bench) -> Held:
    """No update dwarfs the weight that it updates, and every module's spectrum is recorded.

    RMSNorm renormalises what an exploded layer puts out, so logits barely show it; the ratio of
    the spectral norms ‖delta‖ / ‖W‖ does.
    """
    bench.add_spectra([m.spectrum for m in bench.modules])
    found = {
        m.name: float(
            np.nan_to_num(m.spectrum.singular_values[0] / max(m.base_norm, 1e-30), nan=np.inf)
        )
        for m in bench.modules
    }
    name = max(found, key=lambda module: found[module])
    measured = {"largest_ratio": found[name], "module": name, "limit": LARGEST_RATIO}
    if found[name] > LARGEST_RATIO:
        raise CheckFailedError(
            f"the update of {name} is {found[name]:.3g} times as large as the weight that it "
            f"updates (spectral norms; at most {LARGEST_RATIO:g})",
            "train with a lower learning rate or alpha; compare lora_alpha with the training run's",
            measured,
        )
    return Held(
        message=f"the largest ‖delta‖/‖W‖ of {len(found)} modules is {found[name]:.3g}",
        measured=measured,
    )


def _judged(bench: Bench, of: "Callable[[ModuleMeasure], Worst | None]", fault: str) -> Held:
    """Judge one measure over all modules by the one nearest to its bound."""
    taken = [(m.name, found) for m in bench.modules if (found := of(m)) is not None]
    name, worst = max(taken, key=lambda pair: pair[1].ratio)
    measured = {
        "module": name,
        "error": worst.error,
        "bound": worst.bound,
        "ratio": worst.ratio,
        "modules": len(bench.modules),
        "modules_measured": len(taken),
    }
    if not worst.ratio <= 1.0:
        raise CheckFailedError(
            f"{fault}: in {name} by {worst.error:.3g}, where rounding allows {worst.bound:.3g}",
            MEND_PEFT,
            measured,
        )
    if empty := [module for module, found in taken if not found.promised]:
        raise CheckFailedError(
            f"{empty[0]} leaves the range of {bench.run.settings.dtype}, where nothing is promised",
            "gate the adapter with --phi3-dtype float32",
            measured,
            outcome=Outcome.NOT_RUN,
        )
    return Held(
        message=f"{len(taken)} of {len(bench.modules)} modules; the largest error is "
        f"{worst.ratio:.2g} of its bound",
        measured=measured,
    )


def _properties(kind: "type[UnderTest]") -> "list[Property]":
    """The properties of a single layer that hold for every value a checkpoint may have."""
    from phi3_lora_qa.properties import all_properties

    return [p for p in all_properties() if p.applies(kind) and p.id not in kind.known_failures]
