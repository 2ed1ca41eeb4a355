"""Which tokens are learned: what the assistant says, and the stop token that ends its turn.

TRL masks by ``{% generation %}`` marks, which Phi-3's own template does not have, and which some
templates close before the stop token. So the spans are found in the rendered text itself: an
assistant turn begins where the prompt before it ends (with the generation prompt, as when it is
asked), and ends with its stop token. Padding never has labels, since it is added afterwards and
masked by place: that Phi-3's pad token is also an end token (https://github.com/mlabonne/llm-course/issues/33)
cannot hide a stop token from the loss.
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
"""The label that the loss passes over."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A data set of ``input_ids`` and ``labels``, and how many rows were cut at ``max_length``."""

    rows: "Dataset"
    cut: int


def label_rows(
    rows: "Dataset",
    tokenizer: Any,
    stops: Sequence[str],
    *,
    assistant_only: bool = True,
    max_length: int | None = None,
) -> Labelled:
    """Render, tokenise and label conversations.

    Args:
        rows: Column ``messages``.
        tokenizer: A fast tokenizer with a chat template.
        stops: The stop tokens, as text.
        assistant_only: Learn the assistant's turns; False learns every token.
        max_length: Cut longer rows here; a row with nothing left to learn is dropped.

    Raises:
        DataError: The template drops a turn, changes what came before it, or ends no turn with a
            stop token; or no row has anything to learn.
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
            f"all {len(encoded)} rows are cut at {size} tokens before the assistant speaks; "
            "raise training.max_length"
        )
    return Labelled(rows=Dataset.from_list(kept), cut=sum(len(ids) > size for ids, _ in encoded))


def encode(
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    stops: Sequence[str],
    assistant_only: bool,
    where: str,
) -> tuple[list[int], list[int]]:
    """Return the token ids of one conversation, and its labels: the id, or IGNORED.

    What the template writes after the last stop token is left out: no answer ever gets there.

    Raises:
        DataError: See ``label_rows``.
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
    """Return [begin, end) in ``text`` of every assistant turn, its stop token included."""
    spans = []
    place = 0
    for number, turn in enumerate(messages):
        content = turn["content"].strip()
        if turn["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                messages[:number], tokenize=False, add_generation_prompt=True
            )
            if not text.startswith(prompt):
                raise DataError(
                    f"{where}: the chat template writes the turns before turn {number + 1} "
                    "differently once it is answered, so it cannot be learned as it will be asked; "
                    "use a base whose template keeps them"
                )
            place = len(prompt)
        found = text.find(content, place)
        if found < 0:
            raise DataError(
                f"{where}: the chat template of the base drops turn {number + 1}, from the "
                f"{escape(turn['role'], 20)}; leave that turn out, or fold it into the user's"
            )
        begin, place = place, found + len(content)
        if turn["role"] == "assistant":
            place = _after_stop(text, place, stops, where, number)
            spans.append((begin, place))  # from the prompt's end: leading blanks are the answer's
    return spans


def _after_stop(text: str, place: int, stops: Sequence[str], where: str, number: int) -> int:
    ends = [(at, at + len(stop)) for stop in stops if (at := text.find(stop, place)) >= 0]
    # Only blanks may stand between an answer and its stop token; else it is another turn's.
    ends = [(at, end) for at, end in ends if not text[place:at].strip()]
    if not ends:
        raise DataError(
            f"{where}: the chat template ends turn {number + 1} with none of the stop tokens "
            f"{', '.join(stops)}, so the model would not learn to stop; "
            "mend eos_token_id in the base's generation_config.json"
        )
    return min(ends)[1]
