"""What is drawn for each kind of layer, and that the installed libraries pass.

The latter with a few cases each: `pytest --phi3-layers` runs more.
"""

from collections.abc import Iterator

import pytest

from phi3_lora_qa.properties.layer_kinds import LayerKind, layer_kinds
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.strategies import LayerCase
from tests.properties.drawing import KINDS, draw_cases

pytestmark = pytest.mark.slow

EXAMPLES = 3
DTYPES = {"float32", "bfloat16", "float16"}
SOMETIMES = {"base bias", "no base bias"}
EITHER_SCALE = {"rslora", "no rslora"}
PLAIN = {"no rslora", "no bias", "no magnitude"}
LINEAR = DTYPES | SOMETIMES | EITHER_SCALE | {"no bias", "no magnitude"}
DRAWN = {
    "peft.linear": LINEAR | {"bias"},
    "peft.safe_merge": LINEAR | {"bias"},
    "peft.mixed_dtypes": LINEAR - {"float32"},
    "peft.dora": LINEAR - {"no magnitude"} | {"magnitude"},
    "peft.fan_in_fan_out": LINEAR,
    "peft.embedding": LINEAR - {"base bias"},
    **dict.fromkeys(("peft.conv1d", "peft.conv2d", "peft.conv3d"), LINEAR),
    "peft.dora_conv2d": LINEAR - {"no magnitude"} | {"magnitude"},
    "peft.grouped_conv": LINEAR,
    "loralib.linear": DTYPES | SOMETIMES | PLAIN,
    "loralib.fan_in_fan_out": DTYPES | SOMETIMES | PLAIN,
    "loralib.embedding": DTYPES | PLAIN | {"no base bias"},
    "loralib.merged_linear": DTYPES | SOMETIMES | PLAIN,
    **dict.fromkeys(
        ("loralib.conv1d", "loralib.conv2d", "loralib.conv3d"), DTYPES | SOMETIMES | PLAIN
    ),
}


def options(case: LayerCase) -> Iterator[str]:
    """Yield the options that a case has, and those that it lacks."""
    yield case.dtype
    parts = {"base bias": case.base_bias is not None, "bias": case.factors.bias is not None,
             "magnitude": case.factors.magnitude is not None, "rslora": case.rslora}  # fmt: skip
    yield from (name if has else f"no {name}" for name, has in parts.items())


@pytest.mark.parametrize("kind", DRAWN)
def test_every_option_that_a_kind_has_is_draw_cases(kind: str) -> None:
    cases = draw_cases(kind, 100)
    assert {option for case in cases for option in options(case)} == DRAWN[kind]
    assert {1, 2, 3} <= {len(case.x) for case in cases}  # rows
    assert {1, 2, 3} <= {case.factors.rank for case in cases}
    assert any(len(case.weight) > 2 for case in cases)


def test_every_kind_is_named_after_its_library() -> None:
    assert {kind.library for kind in layer_kinds()} == {"peft", "loralib"}
    assert {*DRAWN, "peft.model"} == set(KINDS)


@pytest.mark.parametrize("kind", layer_kinds(), ids=lambda kind: kind.name)
def test_the_installed_library_passes_except_for_known_failures(kind: LayerKind) -> None:
    compared = set()
    for prop in kind.properties():
        try:
            result = run_property(prop, kind.under_test, examples=EXAMPLES, shrink=False)
        except PropertyFailed:
            assert prop.id in kind.under_test.known_failures
        else:
            if result.cases:
                compared.add(prop.id)
    assert len(compared) >= 0.7 * len(kind.properties())
