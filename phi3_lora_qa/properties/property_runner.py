"""Runs a property on a kind of layer: draws cases, shrinks a failing one, and reports it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.properties.layer_property import Comparison, Property, UnderTest


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How many cases are drawn.

    Attributes:
        name: As in ``--hypothesis-profile``.
        examples: Cases for each property and kind of layer.
    """

    name: str
    examples: int


_PROVIDERS = "hypothesis.internal.conjecture.providers"

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="default", examples=12),
        Profile(name="thorough", examples=1000),
    )
}


class PropertyFailed(AssertionError):  # noqa: N818 - an outcome, not a mistake of the caller
    """A property failed; the message has the shrunk example, the error and its bound.

    Example:
        >>> issubclass(PropertyFailed, AssertionError)
        True
    """


@dataclass(frozen=True, kw_only=True)
class PropertyResult:
    """The result of a property that passed.

    Attributes:
        cases: The number of drawn cases in which it compared something; 0 if it never applied.
        ratio: The largest error as a share of its bound; 0 if all values were equal.

    Example:
        >>> PropertyResult(cases=12, ratio=0.25).cases
        12
    """

    cases: int
    ratio: float


class _Trial:
    """The running state of one property: the last case and comparison, and the result so far."""

    def __init__(self, prop: Property, kind: type[UnderTest]) -> None:
        self.prop, self.kind = prop, kind
        self.strategy = kind.cases()
        self.case: Any = None
        self.comparison: Comparison | None = None
        self.cases, self.ratio = 0, 0.0

    def run(self, data: Any) -> None:
        """Check one drawn case.

        Raises:
            PropertyFailed: An error exceeds its bound.
        """
        self.case = self.comparison = None
        self.case = data.draw(self.strategy)
        for found in self.prop.check(self.kind, self.case, data.draw):
            self.comparison = found
            ratio = found.worst[0]
            if not ratio <= 1.0:
                raise PropertyFailed(found.what)
            self.ratio = max(self.ratio, ratio)
        self.cases += self.comparison is not None

    def failure(self, reason: str, rerun_command: str) -> PropertyFailed:
        """Return the failure with its message."""
        lines = [
            f"{self.prop.id} failed for {self.kind.__name__}: {reason}",
            f"  property: {self.prop.summary}",
            f"  example: {self.case!r}",
        ]
        if rerun_command:
            lines.append(f"  rerun with: {rerun_command}")
        return PropertyFailed("\n".join(lines))


def run_property(  # noqa: PLR0913 - choices, by keyword only
    prop: Property,
    kind: type[UnderTest],
    *,
    examples: int = PROFILES["default"].examples,
    seed: int = 0,
    shrink: bool = True,
    rerun_command: str = "",
) -> PropertyResult:
    """Run one property on cases of one kind, drawn from the seed.

    Args:
        prop: The property.
        kind: The class of layers on which it is run.
        examples: The number of cases to draw.
        seed: The same seed draws the same cases.
        shrink: Whether to search for a smaller failing case.
        rerun_command: A command line that repeats the run, for the message.

    Returns:
        The number of cases and the largest error.

    Raises:
        PropertyFailed: An error exceeds its bound, or the layer raised an exception.

    Example:
        >>> import numpy as np
        >>> class NumpyLayer(Layer):
        ...     def __init__(self, case):
        ...         self.case = case
        ...     @classmethod
        ...     def build(cls, case):
        ...         return cls(case)
        ...     def forward(self, x):
        ...         f, bias = self.case.factors, self.case.base_bias
        ...         y = x @ self.case.weight.T + f.scaling * x @ f.A.T @ f.B.T
        ...         return y if bias is None else y + bias
        >>> forward = {prop.id: prop for prop in all_properties()}["forward_adds_the_delta"]
        >>> run_property(forward, NumpyLayer, examples=5).cases
        5
    """
    __tracebackhide__ = True  # the message says what failed; this frame does not
    import hypothesis

    trial = _Trial(prop, kind)
    test = _hypothesis_test(trial, examples=examples, seed=seed, shrink=shrink)
    try:
        with isolated():
            test()
    except PropertyFailed:
        found = trial.comparison
        reason = "it failed before any comparison" if found is None else found.difference
        raise trial.failure(reason, rerun_command) from None
    except hypothesis.errors.Flaky as error:
        reason = "it failed once but not again: the layer's results change from run to run"
        raise trial.failure(reason, rerun_command) from error
    except Exception as error:
        reason = f"it raised {type(error).__name__}: {error}"
        raise trial.failure(reason, rerun_command) from error
    return PropertyResult(cases=trial.cases, ratio=trial.ratio)


def _hypothesis_test(
    trial: _Trial, *, examples: int, seed: int, shrink: bool
) -> Callable[[], None]:
    import hypothesis
    from hypothesis import strategies as st

    def body(data: Any) -> None:
        trial.run(data)

    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])]
    configured: Any = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=phases,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    test: Callable[[], None] = hypothesis.seed(seed)(configured(hypothesis.given(st.data())(body)))
    return test


@contextmanager
def isolated() -> Iterator[None]:
    """Run properties independently of numpy's error settings and of the user's modules.

    Overflow gives infinity and an undefined direction NaN, and both are compared as such. numpy
    must not warn, since the user may turn warnings into errors.
    """
    with np.errstate(all="ignore"), _without_user_constants():
        yield


@contextmanager
def _without_user_constants() -> Iterator[None]:
    """Keep hypothesis from drawing constants that it finds in the user's modules.

    Otherwise the imported modules would change the cases for a given seed, and the command that
    repeats a failed property would run different ones. Hypothesis has no setting for this.
    """
    cache_of = part_of("hypothesis", _PROVIDERS, "LRUCache")
    own = {
        "_get_local_constants": part_of("hypothesis", _PROVIDERS, "Constants"),
        "CONSTANTS_CACHE": _own_cache(cache_of),
    }
    before = {name: part_of("hypothesis", _PROVIDERS, name) for name in own}
    providers = vars(import_module(_PROVIDERS))
    providers.update(own)
    try:
        yield
    finally:
        providers.update(before)


@cache
def _own_cache(cache_of: Any) -> Any:
    """Return a cache of drawable constants without the user's, which hypothesis's own has."""
    return cache_of(1024)
