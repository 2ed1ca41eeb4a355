"""Every fault that is planted into PEFT breaks a property; PEFT as it is breaks none."""

import pytest

from phi3_lora_qa.properties.kinds import Kind, kinds
from phi3_lora_qa.properties.run import PropertyBroken, run_property
from tests.properties.planted import FAULTS

KINDS = {kind.name: kind for kind in kinds()}


def broken(kind: Kind) -> str:
    """Return the first property that does not hold; empty where all do."""
    for tested in kind.properties():
        if tested.id in kind.under_test.known_faults:
            continue
        try:
            run_property(tested, kind.under_test, shrink=False)
        except PropertyBroken:
            return tested.id
    return ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    missed = [kind for kind in fault.kinds if not broken(KINDS[kind])]
    assert not missed
