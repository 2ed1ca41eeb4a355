"""The facts about the published models fit each other and the messages about other models."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Phi3Config

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import modules_from_config
from phi3_lora_qa.adapter.phi_family import is_phi_name
from phi3_lora_qa.adapter.phi_models import OTHER_ARCHITECTURES, PHI_MODELS, PhiModel
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.registry import find_known

ALL = pytest.mark.parametrize("phi", PHI_MODELS, ids=lambda phi: phi.name)
BILLIONS = {"phi3-mini-4k": 3.82, "phi3-medium-4k": 13.96, "phi4": 14.66, "phi4-mini": 3.84}
"""The published numbers of parameters."""


@ALL
def test_transformers_reads_the_config(phi: PhiModel) -> None:
    rope: Any = Phi3Config.from_dict(dict(phi.config())).rope_parameters
    assert rope["rope_type"] == ("longrope" if phi.longrope else "default")
    assert rope["partial_rotary_factor"] == phi.rotary
    assert phi.head_size in {96, 128}


@ALL
def test_every_model_is_a_known_base(phi: PhiModel) -> None:
    assert find_known(phi.name) == find_known(phi.id) is not None
    assert is_phi_name(phi.id)
    assert max(phi.chat.stop_tokens) < phi.vocabulary


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_the_sizes_give_the_published_number_of_parameters(name: str, billions: float) -> None:
    phi = next(phi for phi in PHI_MODELS if phi.name == name)
    modules = modules_from_config(phi.config()).values()
    sizes = [
        (m.inputs or 0) * (m.outputs or 0) if m.kind != "norm" else (m.outputs or 0)
        for m in modules
        if not (phi.tied and m.name == "lm_head")
    ]
    assert sum(sizes) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(("model_type", "name"), OTHER_ARCHITECTURES.items())
def test_other_models_of_the_name_are_refused_by_name(
    model_type: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BaseModelError, match=f"is a {name}, which has another architecture"):
        BaseFiles.open(tmp_path)
