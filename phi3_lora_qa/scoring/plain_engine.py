"""Score items by transformers' own forward and ``generate``, one item at a time.

Nothing private of transformers or torch is used here, so it runs with every version that loads the
model. It is much slower than `batch_engine`, and its results are the same within rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.progress import Progress
from phi3_lora_qa.scoring.decoding import truncate_at_stop
from phi3_lora_qa.scoring.item_outputs import BaseOutputs, ItemOutput, score_references
from phi3_lora_qa.scoring.losses import LogitBlocks, token_losses
from phi3_lora_qa.scoring.prompts import TokenizedItem

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

Tokens = tuple[int, ...]
AnswerLogits = Callable[["PreTrainedModel", Tokens, Tokens], LogitBlocks]
"""Returns the logits that predict an answer's tokens, from (model, prompt, answer)."""


class PlainEngine:
    """Runs items through one model, one after the other.

    Args:
        model: A causal language model without PEFT's outer wrapper, in eval mode.
        stops: The tokens that end an answer.
    """

    def __init__(self, model: "PreTrainedModel", stops: frozenset[int]) -> None:
        self._model, self._stops = model, stops

    def run(
        self, batch: Sequence[TokenizedItem], base_outputs: BaseOutputs, on_progress: Progress
    ) -> list[ItemOutput]:
        """Return the model's output for each item.

        Args:
            batch: The items.
            base_outputs: The base's outputs by item id, with which the outputs are compared.
            on_progress: Called after each item.
        """
        outputs = []
        for item in batch:
            outputs.append(score_alone(self._model, item, self._stops, base_outputs))
            on_progress("items", len(outputs), len(batch))
        return outputs


def forward_logits(model: "PreTrainedModel", prompt: Tokens, answer: Tokens) -> LogitBlocks:
    """Return the logits that predict an answer's tokens, from the model's own forward."""
    import torch

    tokens = torch.tensor([prompt + answer[:-1]], device=model.device)
    # The token before the first one of the answer predicts it, and so on.
    output: Any = model(input_ids=tokens, use_cache=False, logits_to_keep=len(answer))
    yield slice(0, len(answer)), output.logits[0, -len(answer) :].float()


def score_alone(
    model: "PreTrainedModel",
    item: TokenizedItem,
    stops: frozenset[int],
    base_outputs: BaseOutputs,
    answer_logits: AnswerLogits = forward_logits,
) -> ItemOutput:
    """Return a model's output for one item.

    Args:
        model: A causal language model without PEFT's outer wrapper, in eval mode.
        item: The item.
        stops: The tokens that end an answer.
        base_outputs: The base's outputs by item id, with which the output is compared.
        answer_logits: How the logits of the reference and the choices are computed.
    """
    import torch

    blocks = answer_logits(model, item.prompt, item.reference)
    ((output, _),) = score_references(blocks, [item], base_outputs)
    choices = []
    for choice in item.choices:
        blocks = answer_logits(model, item.prompt, choice)
        losses = token_losses(blocks, torch.tensor(choice))
        choices.append(-float(losses.cpu().double().sum()))
    prompt = torch.tensor([item.prompt], device=model.device)
    generate: Any = model.generate  # a decorator of torch hides its type
    generated = generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=_greedy_config(item.answer_limit, stops),
    )
    answer = truncate_at_stop(generated[0, len(item.prompt) :].tolist(), stops)
    return replace(output, answer=answer, choices=tuple(choices))


def _greedy_config(max_new_tokens: int, stops: frozenset[int]) -> "GenerationConfig":
    """Set every field that ``generate`` would take from the base's own sampling settings."""
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
