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
