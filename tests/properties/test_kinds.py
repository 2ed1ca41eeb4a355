"""The installed peft and loralib hold every property, on a few cases each."""

import pytest

from phi3_lora_qa.properties.kinds import Kind, kinds
from phi3_lora_qa.properties.run import PropertyBroken, run_property

EXAMPLES = 3


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_the_installed_library_holds_what_it_is_not_known_to_break(kind: Kind) -> None:
    compared = set()
    for tested in kind.properties():
        try:
            held = run_property(tested, kind.under_test, examples=EXAMPLES, shrink=False)
        except PropertyBroken:
            assert tested.id in kind.under_test.known_faults
        else:
            if held.cases:
                compared.add(tested.id)
    assert len(compared) >= 0.7 * len(kind.properties())
