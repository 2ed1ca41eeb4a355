"""Math stage: PEFT computes the update that the adapter's files define.

The expected values are computed from the files in float64 (``phi3_lora_qa.lora``); PEFT's values
come from its own layers, with the adapter's config and factors and the base's weights. Every bound
comes from rounding analysis. The base's weights are read one module after another: no model is
built.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    StopCheckError,
    checks_of,
    failed,
    no_lora_module,
    not_run,
    passed,
)

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from phi3_lora_qa.gate.module_stats import MaxError, ModuleStats
    from phi3_lora_qa.properties import Property
    from phi3_lora_qa.properties.layer_property import UnderTest
    from phi3_lora_qa.strategies import LayerCase

EXAMPLES = 25
LARGEST_RATIO = 10.0
FIX_PEFT = "the installed peft does not compute the update in the files; pin another version"


def checks() -> tuple[Check, ...]:
    """Return the stage's checks."""
    return checks_of(
        "math",
        delta_is_scaling_times_b_times_a,
        rank_is_bounded,
        delta_is_linear_in_alpha,
        forward_adds_the_delta,
        layer_properties_hold,
        update_norm_ratio,
    )


def delta_is_scaling_times_b_times_a(session: AdapterSession) -> CheckOutcome:
    """PEFT's delta equals scaling · B·A from the files."""
    return _check_all(session, lambda m: m.delta, "PEFT's delta differs from scaling · B·A")


def rank_is_bounded(session: AdapterSession) -> CheckOutcome:
    """The rows of PEFT's delta are in the r-dimensional row space of A."""
    return _check_all(session, lambda m: m.rank, "the delta's rank exceeds r")


def delta_is_linear_in_alpha(session: AdapterSession) -> CheckOutcome:
    """With a scaling multiplied by 2, 0.5, -1 or 3 the delta is multiplied by the same factor."""
    return _check_all(session, lambda m: m.scaled, "the delta is not linear in alpha")


def forward_adds_the_delta(session: AdapterSession) -> CheckOutcome:
    """A module's output is W·x + scaling · B·(A·x), or DoRA's, for drawn inputs x."""
    return _check_all(
        session, lambda m: m.forward, "a module's output is not W·x + scaling · B·A·x"
    )


def layer_properties_hold(session: AdapterSession) -> CheckOutcome:
    """This adapter's values satisfy the properties in `phi3_lora_qa.properties`.

    hypothesis draws a module and a property. PEFT's layer gets a corner of the module's weight and
    factors, and is merged, unmerged, scaled, disabled, trained for a step, saved and loaded.
    """
    import hypothesis
    from hypothesis import strategies as st

    from phi3_lora_qa.properties.property_runner import isolated

    corners = [(m.name, m.corner) for m in session.measure_modules()]
    if not corners:
        return no_lora_module()
    seen: set[tuple[str, str]] = set()
    largest = 0.0

    def draw(data: "st.DataObject") -> None:
        nonlocal largest
        name, case = data.draw(st.sampled_from(corners))
        kind = _kind_of(case)
        tested = data.draw(st.sampled_from(_properties(kind)))
        for comparison in tested.check(kind, case, data.draw):
            seen.add((name, tested.id))
            ratio, error, bound = comparison.worst
            largest = max(largest, ratio)
            if not ratio <= 1.0:
                raise StopCheckError(
                    failed(
                        f"the property {tested.id} failed for {name}: {comparison.difference}",
                        FIX_PEFT,
                        {"module": name, "property": tested.id, "error": error, "bound": bound},
                    )
                )

    # Every setting is set, so that a user's hypothesis profile has no effect.
    configured = hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    with isolated():
        hypothesis.seed(session.settings.seed)(configured(hypothesis.given(st.data())(draw)))()
    properties = {tested for _, tested in seen}
    if not seen:
        return not_run(
            "none of the drawn properties applies to this adapter", "set another --phi3-seed"
        )
    return passed(
        f"{len(properties)} properties passed in {len(seen)} drawn cases; the largest error is "
        f"{largest:.2g} of its bound",
        {"properties": sorted(properties), "cases": len(seen), "ratio": largest},
    )


def update_norm_ratio(session: AdapterSession) -> CheckOutcome:
    """No update is much larger than the weight that it updates; every spectrum is recorded.

    RMSNorm renormalises the output of an exploded layer, so that the logits barely show it. The
    ratio of the spectral norms, ‖delta‖ / ‖W‖, shows it.
    """
    modules = session.measure_modules()
    if not modules:
        return no_lora_module()
    session.add_spectra([m.spectrum for m in modules])
    found = {
        m.name: float(
            np.nan_to_num(m.spectrum.singular_values[0] / max(m.base_norm, 1e-30), nan=np.inf)
        )
        for m in modules
    }
    name = max(found, key=lambda module: found[module])
    measured = {"largest_ratio": found[name], "module": name, "limit": LARGEST_RATIO}
    if found[name] > LARGEST_RATIO:
        return failed(
            f"the update of {name} is {found[name]:.3g} times as large as the weight that it "
            f"updates (spectral norms; limit: {LARGEST_RATIO:g})",
            "train with a lower learning rate or alpha; compare lora_alpha with the training run's",
            measured,
        )
    return passed(f"the largest ‖delta‖/‖W‖ of {len(found)} modules is {found[name]:.3g}", measured)


def _check_all(
    session: AdapterSession, of: "Callable[[ModuleStats], MaxError | None]", fault: str
) -> CheckOutcome:
    return check_modules(session.measure_modules(), of, fault, session.settings.dtype)


def check_modules(
    modules: "Sequence[ModuleStats]",
    of: "Callable[[ModuleStats], MaxError | None]",
    fault: str,
    dtype: str,
) -> CheckOutcome:
    """Check one measurement of all modules by the error that is largest relative to its bound.

    Args:
        modules: The measurements of all modules.
        of: Returns the measurement of a module; None if the module lacks it.
        fault: What is wrong if an error exceeds its bound.
        dtype: The dtype of the models.
    """
    if not modules:
        return no_lora_module()
    errors = [(m.name, error) for m in modules if (error := of(m)) is not None]
    name, largest = max(errors, key=lambda pair: pair[1].ratio)
    measured = {
        "module": name,
        "error": largest.error,
        "bound": largest.bound,
        "ratio": largest.ratio,
        "modules": len(modules),
        "modules_measured": len(errors),
    }
    if not largest.ratio <= 1.0:
        return failed(
            f"{fault}: in {name} by {largest.error:.3g}; rounding explains at most "
            f"{largest.bound:.3g}",
            FIX_PEFT,
            measured,
        )
    if unbounded := [module for module, error in errors if not error.is_bounded]:
        return not_run(
            f"the values in {unbounded[0]} exceed the range of {dtype}, so no error bound applies",
            "gate the adapter with --phi3-dtype float32",
            measured,
        )
    return passed(
        f"{len(errors)} of {len(modules)} modules measured; the largest error is "
        f"{largest.ratio:.2g} of its bound",
        measured,
    )


def _kind_of(case: "LayerCase") -> "type[UnderTest]":
    """Return PEFT's kind of layer for a case."""
    from phi3_lora_qa.properties.peft_layers import PeftDora, PeftLinear, PeftMixed

    if case.factors.magnitude is not None:
        return PeftDora
    return PeftMixed if case.dtype != "float32" else PeftLinear


def _properties(kind: "type[UnderTest]") -> "list[Property]":
    """Return the properties of one layer that any values of a checkpoint satisfy."""
    from phi3_lora_qa.properties import all_properties

    return [p for p in all_properties() if p.applies(kind) and p.id not in kind.known_failures]
