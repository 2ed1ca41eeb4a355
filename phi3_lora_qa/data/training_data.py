"""Training conversations: read strictly, split by seed, validation disjoint from training."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Message, parse_conversation, read_jsonl
from phi3_lora_qa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Conversation = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Two data sets with one column ``messages``, and what is worth telling about them.

    ``sha256`` is over the conversations themselves, in order, so that it names what was trained on
    wherever the files lie. ``leaked`` counts the rows that were taken out of the validation set
    because their prompt is also trained on; ``repeated`` counts training rows that say again,
    word for word, what an earlier one says (they stay: weighting by repetition is the user's).
    """

    train: "Dataset"
    validation: "Dataset"
    sha256: str
    leaked: int
    repeated: int


def load_training_data(
    train: Path, validation: Path | None = None, *, validation_fraction: float = 0.1, seed: int = 0
) -> TrainingData:
    """Read and check every row, then split where there is no validation set of its own.

    Args:
        train: A file of JSON lines, each ``{"messages": [...]}``; other keys are passed over.
        validation: Another such file; None splits the validation rows off the training rows.
        validation_fraction: Share of the rows to split off, in (0, 1).
        seed: Draws the split.

    Raises:
        DataError: A row is no conversation (with file and line), or one side ends up empty.
    """
    conversations = read_conversations(train)
    if validation is not None:
        taught, held_out = conversations, read_conversations(validation)
    else:
        taught, held_out = _split(conversations, validation_fraction, seed)
    known = {_prompt_key(row) for row in taught}
    clean = [row for row in held_out if _prompt_key(row) not in known]
    if not clean:
        raise DataError(
            f"{validation or train}: all {len(held_out)} validation rows ask what the "
            "training rows ask, so nothing is held out; add rows with other prompts"
        )
    return TrainingData(
        train=_dataset(taught),
        validation=_dataset(clean),
        sha256=_sha256(taught, clean),
        leaked=len(held_out) - len(clean),
        repeated=len(taught) - len(set(taught)),
    )


def read_conversations(path: Path) -> list[Conversation]:
    """Check all rows of a file, with file and line in the message.

    Raises:
        DataError: A row is no conversation, or there is no row.
    """
    found = [_conversation(row, where) for where, row in read_jsonl(path)]
    if not found:
        raise DataError(f'{path} holds no row; write one {{"messages": [...]}} a line')
    return found


def _conversation(row: object, where: str) -> Conversation:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row must be an object with 'messages'")
    return parse_conversation(row.get("messages"), where)


def _split(
    rows: list[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    from datasets import Dataset

    if len(rows) < 2:
        raise DataError("one training row cannot be split; add rows, or name a validation file")
    # At least one row on either side, however small the fraction.
    held = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    parts = Dataset.from_dict({"row": range(len(rows))}).train_test_split(test_size=held, seed=seed)
    return [rows[i] for i in parts["train"]["row"]], [rows[i] for i in parts["test"]["row"]]


def _prompt_key(row: Conversation) -> tuple[tuple[str, str], ...]:
    """Name what is asked, blind to case and spacing: a leak is a leak in capitals too."""
    return tuple((turn.role, " ".join(turn.content.casefold().split())) for turn in row[:-1])


def _dataset(rows: Sequence[Conversation]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_dict({"messages": [[asdict(turn) for turn in row] for row in rows]})


def _sha256(*sides: Sequence[Conversation]) -> str:
    plain = [[[(t.role, t.content) for t in row] for row in side] for side in sides]
    return hashlib.sha256(json.dumps(plain).encode("ascii")).hexdigest()
