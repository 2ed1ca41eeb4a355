"""Every model of the family is scored as transformers' own forward and generate compute it.

The heads' size and grouping, the rotary part, LongRoPE, the window and tied tables are those of the
published config. Heads, layers, MLP and vocabulary are fewer, and the window and LongRoPE's switch
are inside the items, so that all of them matter. `benchmarks/phi_family.py` uses the whole width.
"""

import copy
from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from phi3_lora_qa.adapter.phi_models import PHI_MODELS, PhiModel
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from tests.scoring.builders import ROUNDING
from tests.scoring.test_plain_engine import assert_engines_agree

pytestmark = pytest.mark.slow

DISTINCT = ("phi3-mini-4k", "phi3-mini-128k", "phi3-medium-128k", "phi4", "phi4-mini")
"""The others differ from one of these in the frequencies' base or the window's size only."""


def small_model(phi: PhiModel, tiny: LoadedBase) -> Any:
    group = phi.heads // phi.key_heads
    heads = 2 * group
    settings = {
        **phi.config(),
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "hidden_size": heads * phi.head_size,
        "intermediate_size": 256,
        "vocab_size": 1024,
        "sliding_window": 40 if phi.window else None,
        "original_max_position_embeddings": 64 if phi.longrope else phi.switch,
    }
    tokens = {"bos_token_id": 1, "eos_token_id": 741, "pad_token_id": 741}
    torch.manual_seed(7)
    model = Phi3ForCausalLM(Phi3Config.from_dict({**settings, **tokens})).eval()
    model.generation_config = tiny.model.generation_config
    for parameter in model.parameters():
        parameter.data.mul_(2.0)  # far from uniform, so that all losses differ
    return model


@pytest.mark.parametrize("name", DISTINCT)
def test_the_fast_engine_gives_the_results_of_transformers(
    name: str, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    base = small_model(next(phi for phi in PHI_MODELS if phi.name == name), tiny)
    tuned = copy.deepcopy(base)
    for parameter in tuned.model.layers.parameters():
        parameter.data.mul_(1.05)
    assert_engines_agree(base, tuned, tiny.tokenizer, ragged[::5], tolerance=10 * ROUNDING)
