"""What the properties of whole models allow and tell."""

import numpy as np
import pytest
from peft import LoraConfig
from transformers import Phi3Config

from phi3_lora_qa.lora import Array
from phi3_lora_qa.properties.catalogue import all_properties
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.properties.whole_model import ModelCase
from phi3_lora_qa.strategies import Batch
from tests.properties.reference import ReferenceModel

(MERGED,) = (p for p in all_properties() if p.id == "model_merged_output_matches_unmerged")


def moved(by: float, size: float) -> type[ReferenceModel]:
    """A model of logits of one size, which differ that much once it is merged."""

    class Moved(ReferenceModel):
        merges = False

        def logits(self, ids: Array, mask: Array) -> Array:
            return np.full((*ids.shape, 8), size + (by if self.merges else 0.0))

        def merge_and_unload(self) -> "Moved":
            twin = type(self)(self.case, self.lora)
            twin.merges = True
            return twin

    return Moved


@pytest.mark.slow
@pytest.mark.parametrize(("size", "most"), [(0.0, 2.0**-32), (0.5, 2.0**-32), (16.0, 2.0**-28)])
def test_logits_may_move_by_a_share_of_the_largest_or_of_one(size: float, most: float) -> None:
    run_property(MERGED, moved(most, size), examples=3)
    with pytest.raises(PropertyFailed, match="a logit of the merged model is off by"):
        run_property(MERGED, moved(1.25 * most, size), examples=3)


def test_a_case_shows_what_is_not_as_usual() -> None:
    case = ModelCase(
        phi3=Phi3Config(hidden_size=16),
        lora=LoraConfig(r=3),
        batch=Batch(input_ids=np.array([[5, 6]]), attention_mask=np.array([[1, 1]])),
        seed=4,
    )
    shown = repr(case)
    assert "'hidden_size': 16" in shown
    assert "lora={'r': 3}, ids=[[5, 6]], mask=[[1, 1]], seed=4)" in shown
