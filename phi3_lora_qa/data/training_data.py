"""Training conversations, read strictly and split by seed; no prompt is in both sides."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Message, got, parse_conversation, read_jsonl
from phi3_lora_qa.data.turn_tokens import TurnTokens, find_marked_turn
from phi3_lora_qa.errors import DataError, escape

if TYPE_CHECKING:
    from datasets import Dataset

Conversation = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training and validation rows, and remarks about them.

    Attributes:
        train: A data set with one column, ``messages``.
        validation: The same.
        sha256: Hash of the conversations in order, independent of the files they came from.
        leaked: Rows left out of the validation set because their prompts are in the training set.
        repeated: Training rows that duplicate an earlier one. They are kept, since repeating a row
            is a way to weight it.
    """

    train: "Dataset"
    validation: "Dataset"
    sha256: str
    leaked: int
    repeated: int


def load_training_data(
    train: Path, validation: Path | None = None, *, validation_fraction: float = 0.1, seed: int = 0
) -> TrainingData:
    """Read and check every row, and split off the validation rows if they have no file.

    Args:
        train: JSON lines of ``{"messages": [...]}``; other keys are ignored.
        validation: Another such file; None splits the validation rows off the training rows.
        validation_fraction: Share of the rows to split off, in (0, 1).
        seed: Seed of the split.

    Raises:
        DataError: A row is not a conversation (with file and line), or one side would be empty.
    """
    conversations = read_conversations(train)
    if validation is not None:
        train_rows, held_out = conversations, read_conversations(validation)
    else:
        train_rows, held_out = _split(conversations, validation_fraction, seed)
    prompts = {_prompt_key(row) for row in train_rows}
    clean = [row for row in held_out if _prompt_key(row) not in prompts]
    if not clean:
        raise DataError(
            f"{validation or train}: the prompts of all {len(held_out)} validation rows are in "
            "the training rows, so nothing is held out; add rows with other prompts"
        )
    return TrainingData(
        train=_dataset(train_rows),
        validation=_dataset(clean),
        sha256=_sha256(train_rows, clean),
        leaked=len(held_out) - len(clean),
        repeated=len(train_rows) - len(set(train_rows)),
    )


def read_conversations(path: Path) -> list[Conversation]:
    """Read and check all rows of a file.

    Raises:
        DataError: A row is not a conversation (with file and line), or there are no rows.
    """
    found = [_conversation(row, where) for where, row in read_jsonl(path)]
    if not found:
        raise DataError(f'{path} has no rows; write one {{"messages": [...]}} per line')
    return found


def require_plain_answers(paths: Sequence[Path], tokens: TurnTokens) -> None:
    """Raise if a turn of the assistant contains a token of the base's chat template.

    Args:
        paths: Files of training data, already checked by `read_conversations`.
        tokens: The tokens that end an answer or begin a turn.

    Raises:
        DataError: The message has the file and line, the token, and the number of such rows.
    """
    found = [
        (where, *marked)
        for path in paths
        for where, row in read_jsonl(path)
        if (marked := find_marked_turn(_conversation(row, where), tokens))
    ]
    if not found:
        return
    where, number, token = found[0]
    shown = escape(repr(token.text), 60)
    if token.ends_answer:
        words = f"the stop token {shown}, so the model would learn to go on after an answer's end"
        fix = "remove it, because the chat template writes the one that ends the turn"
    else:
        words = f"{shown}, with which the chat template begins a turn"
        fix = "remove it, or split the text into turns"
    others = len(found) - 1
    rows = "1 more row has such a token" if others == 1 else f"{others} more rows have such tokens"
    more = f" ({rows})" if others else ""
    raise DataError(f"{where}: turn {number + 1}, of the assistant, contains {words}; {fix}{more}")


def _conversation(row: object, where: str) -> Conversation:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row must be an object with 'messages': {got(row)}")
    return parse_conversation(row.get("messages"), where)


def _split(
    rows: list[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    from datasets import Dataset

    if len(rows) < 2:
        raise DataError("a single row cannot be split; add rows, or name a validation file")
    # At least one row on either side, however small the fraction.
    held = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    parts = Dataset.from_dict({"row": range(len(rows))}).train_test_split(test_size=held, seed=seed)
    return [rows[i] for i in parts["train"]["row"]], [rows[i] for i in parts["test"]["row"]]


def _prompt_key(row: Conversation) -> tuple[tuple[str, str], ...]:
    """Return a key of a row's prompt that ignores case and spacing, since those leak, too."""
    return tuple((turn.role, " ".join(turn.content.casefold().split())) for turn in row[:-1])


def _dataset(rows: Sequence[Conversation]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_dict({"messages": [[asdict(turn) for turn in row] for row in rows]})


def _sha256(*sides: Sequence[Conversation]) -> str:
    plain = [[[(t.role, t.content) for t in row] for row in side] for side in sides]
    return hashlib.sha256(json.dumps(plain).encode("ascii")).hexdigest()
