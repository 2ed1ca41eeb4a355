"""Properties of whole models on a correct model, their margin, and mistakes that they find."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig
from transformers import Phi3Config

from phi3_lora_qa.lora import Array
from phi3_lora_qa.properties import (
    whole_model,
)
from phi3_lora_qa.properties.layer_property import Comparison
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.properties.whole_model import ModelCase
from phi3_lora_qa.strategies import Batch
from tests.properties.comparisons import PROPERTIES, check_comparisons, properties_of
from tests.properties.reference import ReferenceModel

pytestmark = pytest.mark.slow

SAVED = [
    what
    for name in ("default", "another")
    for what in (
        f"a logit after loading as {name}",
        f"the adapter loaded as {name} is saved as the same bytes",
    )
]
COMPARED: dict[str, list[str]] = {
    "model_disabling_restores_the_base": [
        "a logit with the adapter disabled",
        "the enabled adapter changes the logits",
    ],
    "model_merged_output_matches_unmerged": ["a logit of the merged model"],
    "model_unloading_restores_the_base": ["a logit after unloading"],
    "model_save_load_round_trip_is_exact": SAVED,
    "model_pattern_order_survives_saving": SAVED,
    "model_scalings_follow_the_patterns": [
        f"rank or scaling of model.layers.{layer}.{module}"
        for layer in range(3)
        for module in ("self_attn.qkv_proj", "mlp.down_proj")
    ],
    "model_training_leaves_the_base_unchanged": ["the base's head after a step"],
    "model_output_is_invariant_to_padding": ["a logit of a padded row"],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(whole_model) == set(COMPARED)


def test_reordered_patterns_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(self: ReferenceModel, name: str) -> tuple[ReferenceModel, bool]:
        lora = copy.deepcopy(self.lora)
        lora.rank_pattern = dict(sorted(lora.rank_pattern.items()))
        return ReferenceModel(self.case, lora), True

    monkeypatch.setattr(ReferenceModel, "save_and_load", changed)
    with pytest.raises(PropertyFailed, match="a logit after loading as default is off"):
        run_property(
            PROPERTIES["model_pattern_order_survives_saving"], ReferenceModel, shrink=False
        )
    # Where the order decides nothing it is no matter.
    run_property(PROPERTIES["model_save_load_round_trip_is_exact"], ReferenceModel, examples=40)


def test_patterns_are_tested_with_every_initialization_except_orthogonal() -> None:
    initializations, prop = set(), PROPERTIES["model_pattern_order_survives_saving"]

    def check(kind: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        for found in prop.check(kind, case, draw):
            initializations.add(str(case.lora.init_lora_weights))
            yield found

    run_property(replace(prop, check=check), ReferenceModel, examples=200)
    assert "orthogonal" not in initializations
    assert {"True", "gaussian"} <= initializations


MERGED = PROPERTIES["model_merged_output_matches_unmerged"]


def shifted(by: float, size: float) -> type[ReferenceModel]:
    """Return a model whose logits all have one size and shift when it is merged."""

    class Shifted(ReferenceModel):
        merges = False

        def logits(self, ids: Array, mask: Array) -> Array:
            return np.full((*ids.shape, 8), size + (by if self.merges else 0.0))

        def merge_and_unload(self) -> "Shifted":
            twin = type(self)(self.case, self.lora)
            twin.merges = True
            return twin

    return Shifted


@pytest.mark.parametrize(("size", "most"), [(0.0, 2.0**-32), (0.5, 2.0**-32), (16.0, 2.0**-28)])
def test_logits_may_differ_by_a_share_of_the_largest_or_of_one(size: float, most: float) -> None:
    run_property(MERGED, shifted(most, size), examples=3)
    with pytest.raises(PropertyFailed, match="a logit of the merged model is off by"):
        run_property(MERGED, shifted(1.25 * most, size), examples=3)


def test_the_repr_of_a_case_has_only_non_default_values() -> None:
    case = ModelCase(
        phi3=Phi3Config(hidden_size=16),
        lora=LoraConfig(r=3),
        batch=Batch(input_ids=np.array([[5, 6]]), attention_mask=np.array([[1, 1]])),
        seed=4,
    )
    shown = repr(case)
    assert "'hidden_size': 16" in shown
    assert "lora={'r': 3}, ids=[[5, 6]], mask=[[1, 1]], seed=4)" in shown
