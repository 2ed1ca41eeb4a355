"""phi_family.py [NAME ...]: score random weights of the published configs, with one layer.

Every width, the vocabulary, the window and LongRoPE's switch are the published ones. The items are
shorter and longer than the window and the switch. The fast engine is compared with transformers'
own forward and generate; the largest difference of a loss and differing answers are printed.
"""

import sys
import time

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from phi3_lora_qa.adapter.phi_models import PHI_MODELS, PhiModel
from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring import ScoringOptions, score_items

TOKENS = (20, 300, 2_100, 4_090, 4_200)
"""Prompts on both sides of a window of 2,047 tokens and of a switch at 4,096."""


def make_model(phi: PhiModel) -> Phi3ForCausalLM:
    """Return a model of the published config with one layer and random weights."""
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 741, "pad_token_id": 741}
    config = Phi3Config.from_dict({**phi.config(), **tokens, "num_hidden_layers": 1})
    config._attn_implementation = "sdpa"
    return Phi3ForCausalLM(config).eval()


def main(names: list[str]) -> None:
    """Compare the engines on each model."""
    tiny = load_base(resolve_base("tiny"))
    items = [
        Item(
            id=str(count),
            prompt=(Message(role="user", content=" ".join(["wolf"] * count)),),
            reference="The wolf is a large animal.",
        )
        for count in TOKENS
    ]
    for phi in PHI_MODELS:
        if names and phi.name not in names:
            continue
        model = make_model(phi)
        model.generation_config = tiny.model.generation_config
        found, seconds = {}, {}
        for engine in ("fast", "plain"):
            start = time.perf_counter()
            options = ScoringOptions(max_new_tokens=8, token_budget=6_000, engine=engine)
            found[engine] = score_items(model, tiny.tokenizer, items, options)
            seconds[engine] = time.perf_counter() - start
        pairs = list(zip(found["fast"], found["plain"], strict=True))
        errors = [score.error for pair in pairs for score in pair if score.error]
        largest = max(abs(one.loss - other.loss) for one, other in pairs)
        differing = [one.item_id for one, other in pairs if one.answer != other.answer]
        print(
            f"{phi.name:<20} loss differs by {largest:.1e}, answers: {differing or 'equal'}, "
            f"fast {seconds['fast']:.0f} s, plain {seconds['plain']:.0f} s {errors[:1] or ''}",
            flush=True,
        )
        del model


if __name__ == "__main__":
    main(sys.argv[1:])
