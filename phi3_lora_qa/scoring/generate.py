"""Generate one answer; only the fixtures for users' own tests need this."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate_answer(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str | Sequence[Message],
    max_new_tokens: int = 64,
) -> str:
    """Return a model's greedy answer to a question or a conversation, without special tokens."""
    import torch

    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    inputs: Any = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    inputs = inputs.to(model.device)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
