"""The kinds of layers: what is drawn for each, what it is built of, and that the library is right.

The last with a few cases each: `pytest --phi3-layers` runs more.
"""

from collections.abc import Iterator
from typing import Any

import loralib
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers.pytorch_utils import Conv1D

from phi3_lora_qa.properties.layer_kinds import LayerKind, layer_kinds
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.strategies import LayerCase

pytestmark = pytest.mark.slow

EXAMPLES = 3
KINDS = {kind.name: kind for kind in layer_kinds()}
DTYPES = {"float32", "bfloat16", "float16"}
SOMETIMES = {"base bias", "no base bias"}
EITHER_SCALE = {"rslora", "no rslora"}
PLAIN = {"no rslora", "no bias", "no magnitude"}
LINEAR = DTYPES | SOMETIMES | EITHER_SCALE | {"no bias", "no magnitude"}
SIDES = {1, 2, 3}
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
BASES: dict[str, Any] = {
    **dict.fromkeys(("linear", "safe_merge", "mixed_dtypes", "dora"), torch.nn.Linear),
    "embedding": torch.nn.Embedding,
    "conv1d": torch.nn.Conv1d,
    "conv2d": torch.nn.Conv2d,
    "conv3d": torch.nn.Conv3d,
}


def drawn(kind: str, number: int) -> list[Any]:
    """Draw cases of a kind, the same each time."""
    found = []

    @settings(max_examples=number, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(KINDS[kind].under_test.cases())
    def draw(case: Any) -> None:
        found.append(case)

    draw()
    return found


def choices(case: LayerCase) -> Iterator[str]:
    """Name what a case has and what it has not."""
    yield case.dtype
    parts = {"base bias": case.base_bias is not None, "bias": case.factors.bias is not None,
             "magnitude": case.factors.magnitude is not None, "rslora": case.rslora}  # fmt: skip
    yield from (name if has else f"no {name}" for name, has in parts.items())


@pytest.mark.parametrize("kind", DRAWN)
def test_every_choice_that_a_kind_has_is_drawn(kind: str) -> None:
    cases = drawn(kind, 100)
    assert {choice for case in cases for choice in choices(case)} == DRAWN[kind]
    assert {1, 2, 3} <= {len(case.x) for case in cases}  # rows
    assert {1, 2, 3} <= {case.factors.rank for case in cases}
    assert any(len(case.weight) > 2 for case in cases)


def test_every_kind_is_named_after_its_library() -> None:
    assert {kind.library for kind in layer_kinds()} == {"peft", "loralib"}
    assert {*DRAWN, "peft.model"} == set(KINDS)


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("peft")])
def test_a_layer_of_peft_is_built_around_its_base(name: str) -> None:
    built: Any
    for case in drawn(name, 8):
        built = KINDS[name].under_test.build(case)  # type: ignore[attr-defined]
        base = built.layer.get_base_layer()
        assert isinstance(base, BASES.get(name.partition(".")[2], torch.nn.Module))
        assert str(base.weight.dtype) == f"torch.{case.dtype}"
        assert built.layer.r["default"] == case.factors.rank
        kept = "float32" if name == "peft.mixed_dtypes" else case.dtype
        assert {str(p.dtype) for n, p in built.model.named_parameters() if "lora_" in n} == {
            f"torch.{kept}"
        }


def test_transformers_own_conv1d_is_the_transposed_linear_layer() -> None:
    built: Any = KINDS["peft.fan_in_fan_out"].under_test
    for case in drawn("peft.fan_in_fan_out", 8):
        layer = built.build(case).layer
        assert isinstance(layer.get_base_layer(), Conv1D)
        assert layer.fan_in_fan_out


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_of_peft_has_kernels_of_every_side(dims: int) -> None:
    built: Any = KINDS[f"peft.conv{dims}d"].under_test
    bases = [built.build(case).layer.get_base_layer() for case in drawn(f"peft.conv{dims}d", 99)]
    assert {side for base in bases for side in base.kernel_size} == SIDES
    # PEFT takes a three-dimensional kernel like this for a Conv2d's of 1 x 1.
    assert any(base.kernel_size[:2] == (1, 1) for base in bases) == (dims == 2)
    assert any(base.in_channels > 1 for base in bases)


def test_grouped_convolutions_have_every_number_of_dimensions_and_groups() -> None:
    built: Any = KINDS["peft.grouped_conv"].under_test
    bases = [built.build(case).layer.get_base_layer() for case in drawn("peft.grouped_conv", 99)]
    assert {type(base) for base in bases} == {torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d}
    assert {base.groups for base in bases} == {1, 2, 3}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_of_loralib_has_the_kernels_that_it_knows(dims: int) -> None:
    built: Any = KINDS[f"loralib.conv{dims}d"].under_test
    layers = [built.build(case).module for case in drawn(f"loralib.conv{dims}d", 99)]
    assert {type(layer) for layer in layers} == {getattr(loralib, f"Conv{dims}d")}
    sides = {side for layer in layers for side in layer.conv.kernel_size}
    assert sides == (SIDES if dims == 2 else {1})


def test_a_fused_layer_of_loralib_has_blocks_without_factors() -> None:
    masks = {case.enable_lora for case in drawn("loralib.merged_linear", 99)}
    assert any(all(mask) for mask in masks)
    assert any(not all(mask) for mask in masks)
    assert len({len(mask) for mask in masks}) > 1


def test_a_model_is_drawn_with_batches_of_padded_rows() -> None:
    shapes = [case.batch.input_ids.shape for case in drawn("peft.model", 99)]
    assert {rows for rows, _ in shapes} == {1, 2, 3}
    assert max(tokens for _, tokens in shapes) > 6


@pytest.mark.parametrize("kind", layer_kinds(), ids=lambda kind: kind.name)
def test_the_installed_library_holds_what_it_is_not_known_to_break(kind: LayerKind) -> None:
    compared = set()
    for tested in kind.properties():
        try:
            result = run_property(tested, kind.under_test, examples=EXAMPLES, shrink=False)
        except PropertyFailed:
            assert tested.id in kind.under_test.known_failures
        else:
            if result.cases:
                compared.add(tested.id)
    assert len(compared) >= 0.7 * len(kind.properties())
