"""An item that reaches past LongRoPE's switch, by itself and as transformers serves it.

Beyond ``original_max_position_embeddings`` Phi-3 reads every position with other frequencies, the
first ones too, so no keys can be kept from before: transformers' own ``generate`` begins anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.scoring.answers import cut
from phi3_lora_qa.scoring.prompts import PromptedItem
from phi3_lora_qa.scoring.readings import Reading, along_references

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


def switch(model: "PreTrainedModel") -> int | None:
    """Return the most tokens of a row below the switch; None where there is none."""
    return getattr(model.config, "original_max_position_embeddings", None)


def read_stretched(
    model: "PreTrainedModel",
    item: PromptedItem,
    stops: frozenset[int],
    others: Mapping[str, Reading],
) -> Reading:
    """Return what a model makes of one item, as `Engine.run` does below the switch."""
    import torch

    device = model.device
    whole = torch.tensor([item.prompt + item.reference[:-1]], device=device)
    decoder: Any = model.get_decoder()
    hidden = decoder(input_ids=whole, use_cache=False).last_hidden_state[0, len(item.prompt) - 1 :]
    ((reading, _),) = along_references(model, hidden, [item], others)
    prompt = torch.tensor([item.prompt], device=device)
    generate: Any = model.generate  # a decorator of torch hides its type
    generated = generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=_greedy(item.answer_limit, stops),
    )
    answer = generated[0, len(item.prompt) :].tolist()
    return replace(reading, answer=cut(answer, stops))


def _greedy(max_new_tokens: int, stops: frozenset[int]) -> "GenerationConfig":
    """Every field that generate() would otherwise fill in from the base's own sampling settings."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops),
        pad_token_id=min(stops),
        use_cache=True,
    )
