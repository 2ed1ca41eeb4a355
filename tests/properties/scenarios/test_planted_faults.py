"""Every fault planted into PEFT makes its property fail; the unmodified PEFT passes it."""

import pytest

from phi3_lora_qa.properties.layer_kinds import layer_kinds
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties import (  # noqa: F401  each plants its faults when it is imported
    planted_adapters,
    planted_forward,
    planted_layers,
    planted_merging,
    planted_models,
    planted_training,
)
from tests.properties.planting import FAULTS

pytestmark = pytest.mark.slow

KINDS = {kind.name: kind.under_test for kind in layer_kinds()}
PROPERTIES = {prop.id: prop for kind in layer_kinds() for prop in kind.properties()}


def run(kind: str, prop: str) -> None:
    run_property(PROPERTIES[prop], KINDS[kind], shrink=False)


@pytest.mark.parametrize("name", FAULTS, ids=[f"{n}-{f.fails}" for n, f in FAULTS.items()])
def test_a_planted_fault_makes_its_property_fail(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    with pytest.raises(PropertyFailed, match=fault.fails):
        run(fault.kind, fault.fails)


@pytest.mark.parametrize(("kind", "prop"), sorted({(f.kind, f.fails) for f in FAULTS.values()}))
def test_the_unmodified_library_passes_the_property(kind: str, prop: str) -> None:
    run(kind, prop)
