"""The page on loralib is correct: its config is usable, and its table lists every fault."""

import re
import tomllib
from pathlib import Path
from typing import Any

from phi3_lora_qa.loralib_interop import LoralibConfig, check_model, plan_layers
from phi3_lora_qa.loralib_interop.model_check import FAULTS

PAGE = (Path(__file__).parents[3] / "docs" / "how-to-loralib.md").read_text(encoding="utf-8")


def test_the_config_on_the_page_plans_the_layers_that_it_names(model: Any) -> None:
    (recipe,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    tables = tomllib.loads(recipe)
    layers = plan_layers(
        model,
        LoralibConfig(
            rank=tables["peft"]["r"],
            alpha=tables["peft"]["lora_alpha"],
            targets=tuple(tables["peft"]["target_modules"]),
            masks=tables["engine"]["masks"],
        ),
    )
    kinds = {layer.name.rpartition(".")[2]: layer.kind for layer in layers}
    assert kinds == {
        "qkv_proj": "MergedLinear",
        "o_proj": "Linear",
        "gate_up_proj": "MergedLinear",
        "down_proj": "Linear",
    }
    assert check_model(model) == ()


def test_the_table_on_the_page_names_every_fault() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) == list(FAULTS)
