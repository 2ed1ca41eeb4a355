"""The requested engine is used where it works."""

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.engine_choice import EngineChoice, choose_engine
from phi3_lora_qa.setting_specs import SPECS


@pytest.mark.parametrize("name", ["fast", "plain"])
def test_the_requested_engine_is_chosen_without_a_fallback(name: str, tiny: LoadedBase) -> None:
    assert choose_engine(name, tiny.model) == EngineChoice(name=name, fallback="")


def test_an_unknown_engine_is_refused(tiny: LoadedBase) -> None:
    with pytest.raises(InputError, match=r"engine is unknown: 'slow'; use one of fast, plain$"):
        choose_engine("slow", tiny.model)


def test_the_setting_has_the_same_names_and_fast_is_the_default() -> None:
    (spec,) = [spec for spec in SPECS if spec.name == "engine"]
    assert (spec.choices, spec.default) == (("fast", "plain"), "fast")
