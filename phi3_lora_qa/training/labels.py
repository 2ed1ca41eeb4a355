"""Labels for training: the assistant's turns, each with the stop token that ends it.

TRL's loss masks need ``{% generation %}`` marks, which Phi-3's own template does not have, and
which some templates close before the stop token. So the spans are found in the rendered text: an
assistant turn begins where its prompt ends (with the generation prompt, as in generation) and ends
with its stop token. Padding is added later and masked by position. Therefore no stop token is
removed from the loss, although Phi-3's pad token is also a stop token
(https://github.com/mlabonne/llm-course/issues/33).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.models.stop_tokens import stop_tokens
from phi3_lora_qa.scoring.prompts import template_stop_token

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""The label that the loss ignores."""


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """A data set of ``input_ids`` and ``labels``; ``truncated`` rows were cut at ``max_length``."""

    rows: "Dataset"
    truncated: int


def label_rows(
    rows: "Dataset",
    tokenizer: Any,
    stops: Sequence[str],
    *,
    assistant_only: bool = True,
    max_length: int | None = None,
) -> LabelledRows:
    """Render, tokenise and label conversations.

    Args:
        rows: A data set with the column ``messages``.
        tokenizer: A fast tokenizer with a chat template.
        stops: The stop tokens, as text.
        assistant_only: Label the assistant's turns only; False labels every token.
        max_length: Cut longer rows at this many tokens; a row without labels left is dropped.

    Raises:
        DataError: The template drops a turn, changes earlier turns, or ends a turn without a stop
            token; or no row has any labels.
    """
    from datasets import Dataset

    encoded = [
        encode(row["messages"], tokenizer, stops, assistant_only, f"conversation {number}")
        for number, row in enumerate(rows, 1)
    ]
    size = max_length or max(len(ids) for ids, _ in encoded)
    kept = [
        {"input_ids": ids[:size], "labels": labels[:size]}
        for ids, labels in encoded
        if any(label != IGNORED for label in labels[1:size])
    ]
    if not kept:
        raise DataError(
            f"all {len(encoded)} rows are cut at {size} tokens before the assistant's turn; "
            "raise training.max_length"
        )
    truncated = sum(len(ids) > size for ids, _ in encoded)
    return LabelledRows(rows=Dataset.from_list(kept), truncated=truncated)


def encode(
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    stops: Sequence[str],
    assistant_only: bool,
    where: str,
) -> tuple[list[int], list[int]]:
    """Return the token ids of one conversation and its labels, each the id or IGNORED.

    Text that the template writes after the last stop token is left out: generation ends before it.

    Raises:
        DataError: As ``label_rows``; the message begins with ``where``.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = _assistant_spans(text, messages, tokenizer, stops, where)
    tokens = tokenizer(text[: spans[-1][1]], add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = list(tokens["input_ids"])
    if not assistant_only:
        return ids, list(ids)
    starts = [start for start, _ in tokens["offset_mapping"]]
    labels = [
        token if any(begin <= start < end for begin, end in spans) else IGNORED
        for token, start in zip(ids, starts, strict=True)
    ]
    return ids, labels


def stop_texts(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Return the tokens that end an answer when the base is scored or served, as text."""
    known = len(tokenizer)
    ids = sorted(stop_tokens(model, template_stop_token(tokenizer)))
    return tuple(tokenizer.convert_ids_to_tokens([i for i in ids if i < known]))


def _assistant_spans(
    text: str,
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    stops: Sequence[str],
    where: str,
) -> list[tuple[int, int]]:
    """Return [begin, end) in ``text`` of every assistant turn, including its stop token."""
    spans = []
    position = 0
    for number, turn in enumerate(messages):
        content = turn["content"].strip()
        if turn["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                messages[:number], tokenize=False, add_generation_prompt=True
            )
            if not text.startswith(prompt):
                raise DataError(
                    f"{where}: the chat template renders the turns before turn {number + 1} "
                    "differently once it is answered, so training would not see the prompt that "
                    "generation uses; use a base whose template does not rewrite earlier turns"
                )
            position = len(prompt)
        found = text.find(content, position)
        if found < 0:
            raise DataError(
                f"{where}: the chat template of the base drops turn {number + 1}, with the role "
                f"{escape(turn['role'], 20)}; remove that turn, or merge it into the user's turn"
            )
        begin, position = position, found + len(content)
        if turn["role"] == "assistant":
            position = _after_stop(text, position, stops, where, number)
            spans.append((begin, position))  # leading spaces after the prompt are the answer's
    return spans


def _after_stop(text: str, position: int, stops: Sequence[str], where: str, number: int) -> int:
    ends = [(at, at + len(stop)) for stop in stops if (at := text.find(stop, position)) >= 0]
    # A stop token after anything but white space belongs to another turn.
    ends = [(at, end) for at, end in ends if not text[position:at].strip()]
    if not ends:
        raise DataError(
            f"{where}: the chat template does not end turn {number + 1} with any of the stop "
            f"tokens {', '.join(stops)}, so the model would not learn to stop; "
            "fix eos_token_id in the base's generation_config.json"
        )
    return min(ends)[1]
