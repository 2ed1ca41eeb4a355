"""An item that reaches past LongRoPE's switch, by itself and as transformers serves it.

Beyond ``original_max_position_embeddings`` Phi-3 reads every position with other frequencies, the
first ones too, so no keys can be kept from before: transformers' own ``generate`` begins anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.scoring.decoding import cut
from phi3_lora_qa.scoring.item_outputs import ItemOutput, score_references
from phi3_lora_qa.scoring.losses import token_losses
from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel


def switch(model: "PreTrainedModel") -> int | None:
    """Return the most tokens of a row below the switch; None where there is none."""
    return getattr(model.config, "original_max_position_embeddings", None)


def read_stretched(
    model: "PreTrainedModel",
    item: PromptedItem,
    stops: frozenset[int],
    others: Mapping[str, ItemOutput],
) -> ItemOutput:
    """Return what a model makes of one item, as `Engine.run` does below the switch."""
    import torch

    device = model.device
    hidden = _predicting(model, item.prompt, item.reference)
    choices = tuple(
        -float(
            token_losses(
                model,
                _predicting(model, item.prompt, choice),
                torch.tensor(choice, device=device),
            )
            .double()
            .sum()
        )
        for choice in item.choices
    )
    ((reading, _),) = score_references(model, hidden, [item], others)
    prompt = torch.tensor([item.prompt], device=device)
    generate: Any = model.generate  # a decorator of torch hides its type
    generated = generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=_greedy(item.answer_limit, stops),
    )
    answer = generated[0, len(item.prompt) :].tolist()
    return replace(reading, answer=cut(answer, stops), choices=choices)


def _predicting(
    model: "PreTrainedModel", prompt: tuple[int, ...], answer: tuple[int, ...]
) -> "Tensor":
    """Return the states that predict an answer's tokens, (tokens, hidden size)."""
    import torch

    whole = torch.tensor([prompt + answer[:-1]], device=model.device)
    decoder: Any = model.get_decoder()
    hidden: Tensor = decoder(input_ids=whole, use_cache=False).last_hidden_state
    return hidden[0, len(prompt) - 1 :]


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
