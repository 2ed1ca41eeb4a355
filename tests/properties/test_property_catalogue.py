"""The catalogue has every property once, and none depends on what was imported first."""

import subprocess
import sys

from phi3_lora_qa.properties.property_catalogue import all_properties


def test_every_property_has_its_own_id_and_a_summary() -> None:
    properties = all_properties()
    assert len({prop.id for prop in properties}) == len(properties) > 40
    for prop in properties:
        assert prop.summary.endswith((".", ":")), prop.id


def test_the_order_does_not_depend_on_the_imports() -> None:
    code = (
        "from phi3_lora_qa.properties import whole_model\n"
        "from phi3_lora_qa.properties.property_catalogue import all_properties\n"
        "print(*(prop.id for prop in all_properties()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [prop.id for prop in all_properties()]


def test_the_themes_have_the_order_that_the_gate_draws_from() -> None:
    # In another order, the same seed would draw other cases. Add a new theme at the end.
    themes = dict.fromkeys(prop.check.__module__.rpartition(".")[2] for prop in all_properties())
    assert list(themes) == [
        "delta",
        "forward",
        "multiple_adapters",
        "merging",
        "whole_model",
        "training_step",
    ]
