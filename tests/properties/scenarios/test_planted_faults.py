"""Every fault that is planted into PEFT breaks a property; PEFT as it is holds those."""

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
PROPERTIES = {tested.id: tested for kind in layer_kinds() for tested in kind.properties()}


def run(kind: str, tested: str) -> None:
    run_property(PROPERTIES[tested], KINDS[kind], shrink=False)


@pytest.mark.parametrize("name", FAULTS, ids=[f"{n}-{f.breaks}" for n, f in FAULTS.items()])
def test_a_planted_fault_breaks_its_property(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    with pytest.raises(PropertyFailed, match=fault.breaks):
        run(fault.kind, fault.breaks)


@pytest.mark.parametrize(("kind", "tested"), sorted({(f.kind, f.breaks) for f in FAULTS.values()}))
def test_the_library_as_it_is_holds_the_property(kind: str, tested: str) -> None:
    run(kind, tested)
