"""Run a property on a kind of layer: draw cases, shrink the one that breaks it, say how."""

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
    """How much is drawn.

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


class PropertyFailed(AssertionError):  # noqa: N818 - what came out, and no mistake
    """A property does not hold; the message has the shrunk example, the error and its bound."""


@dataclass(frozen=True, kw_only=True)
class PropertyResult:
    """What a property that holds has seen.

    Attributes:
        cases: How many were drawn in which it compared something; 0 if it had nothing to say.
        ratio: The largest error, as a share of its bound; 0 where everything was equal.
    """

    cases: int
    ratio: float


def run_property(  # noqa: PLR0913 - choices, by keyword only
    tested: Property,
    kind: type[UnderTest],
    *,
    examples: int = PROFILES["default"].examples,
    seed: int = 0,
    shrink: bool = True,
    rerun_command: str = "",
) -> PropertyResult:
    """Run one property on cases of one kind, drawn from the seed.

    Args:
        tested: The property.
        kind: The class of layers that it is run on.
        examples: How many cases to draw.
        seed: The same seed draws the same cases.
        shrink: Whether to look for a smaller case that breaks it, too.
        rerun_command: A command line that runs this rerun_command, for the message.

    Raises:
        PropertyFailed: It does not hold, or the layer raised an error.
    """
    __tracebackhide__ = True  # what broke is in the message, and not in here
    import hypothesis
    from hypothesis import strategies as st

    cases = kind.cases()
    count, worst = 0, 0.0
    last: list[Any] = [None, None]

    def body(data: Any) -> None:
        nonlocal count, worst
        last[:] = [None, None]
        case = last[0] = data.draw(cases)
        compared = False
        for found in tested.check(kind, case, data.draw):
            last[1], compared = found, True
            ratio = found.worst[0]
            if not ratio <= 1.0:
                raise PropertyFailed(found.what)
            worst = max(worst, ratio)
        count += compared

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
    try:
        with isolated():
            test()
    except PropertyFailed:
        told = _failure_message(tested, kind, last[0], _difference(last[1]), rerun_command)
        raise PropertyFailed(told) from None
    except hypothesis.errors.Flaky as error:
        what = "it breaks it once and not rerun_command: the layer's results change from run to run"
        raise PropertyFailed(
            _failure_message(tested, kind, last[0], what, rerun_command)
        ) from error
    except Exception as error:
        what = f"it raised {type(error).__name__}: {error}"
        raise PropertyFailed(
            _failure_message(tested, kind, last[0], what, rerun_command)
        ) from error
    return PropertyResult(cases=count, ratio=worst)


@contextmanager
def isolated() -> Iterator[None]:
    """Keep what a user has loaded and set away from what properties draw and compute.

    What overflows or has no direction is infinite or NaN, and compared as that: numpy's warning of
    it is none, even where warnings are errors.
    """
    with np.errstate(all="ignore"), _without_user_constants():
        yield


@contextmanager
def _without_user_constants() -> Iterator[None]:
    """Keep hypothesis from drawing numbers that it finds in the user's modules.

    With the same seed what is imported would change the cases, and the line that runs a broken
    property rerun_command would not run the same ones. Hypothesis has no setting for this.
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
    """Return a cache of the numbers that hypothesis may draw, as its own has the user's in it."""
    return cache_of(1024)


def _difference(found: Comparison) -> str:
    _, error, bound = found.worst
    if bound == 0.0:
        return f"{found.what} is off by {error:.3g}, where nothing is rounded"
    return f"{found.what} is off by {error:.3g}, where rounding allows {bound:.3g}"


def _failure_message(
    tested: Property, kind: type[UnderTest], case: Any, what: str, rerun_command: str
) -> str:
    lines = [
        f"{tested.id} does not hold for {kind.__name__}: {what}",
        f"  property: {tested.summary}",
        f"  example: {case!r}",
    ]
    if rerun_command:
        lines.append(f"  run it rerun_command: {rerun_command}")
    return "\n".join(lines)
