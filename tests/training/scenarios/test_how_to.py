import re
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.models.registry import read_base_config, resolve_base
from phi3_lora_qa.training import load_config
from phi3_lora_qa.training.library_arguments import (
    peft_arguments,
    quantization_arguments,
    training_arguments,
)
from phi3_lora_qa.training.target_check import check_targets, linear_modules, linear_names

PAGE = (Path(__file__).parents[3] / "docs" / "how-to-train.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_the_three_cookbook_examples_that_use_lora() -> None:
    assert len(RECIPES) == 3


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_example_is_a_valid_config_without_notes(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(recipe, encoding="utf-8")
    config = load_config(path)
    resolve_base(config.model.base)
    assert not training_arguments(config.training).notes
    peft: Any = peft_arguments(config.peft).values
    check_targets(peft["target_modules"], linear_modules({"num_hidden_layers": 32}))
    quantization_arguments(config.quantization)


def test_the_modules_derived_from_the_config_are_those_of_the_model(
    tiny: Any,
) -> None:
    assert sorted(linear_modules(read_base_config(tiny.ref))) == sorted(linear_names(tiny.model))
