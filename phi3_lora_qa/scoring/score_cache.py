"""What a base made of items, kept on disk: a second adapter pays for the tuned model only.

Everything that a reading depends on is part of its name: the base's weights and config, the
tokens of prompt and reference, the limit and the stop tokens of the answer, the libraries and the
processor. Nothing is ever looked up by the name of a model or of a suite, so a stale reading cannot
be found. Only readings of a plain base are kept, never those of a tuned model.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.reading import open_regular, require_regular
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from phi3_lora_qa.scoring.losses import TopKLogprobs
from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".npz"
MOST_FILES = 20
"""Files beyond this are deleted, the longest unused first."""
LARGEST = 512 << 20

_FORM = 2
"""Goes up when what is kept, or how it is computed, changes."""


class ScoreCache:
    """The readings of one base under one set of conditions, in one file.

    A file that is missing, damaged or too large holds nothing. What cannot be written is not kept;
    it is computed again the next time.

    Args:
        folder: Where the files lie; made when first written to.
        conditions: All that readings depend on beside the items' tokens, by name.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, object]) -> None:
        self._conditions = json.dumps({"form": _FORM, **conditions}, sort_keys=True, default=str)
        self._path = folder / f"{_digest(self._conditions)}{SUFFIX}"
        self._readings = _load(self._path, self._conditions)
        self.found = 0
        self.trouble = ""

    def find(self, item: PromptedItem) -> ItemOutput | None:
        """Return what was kept of an item; ``found`` counts how often there was something."""
        reading = self._readings.get(_name(item))
        self.found += reading is not None
        return reading

    def add(self, readings: Sequence[tuple[PromptedItem, ItemOutput]]) -> None:
        """Keep readings, beside what another process has kept meanwhile.

        Where that cannot be done, ``trouble`` says why.
        """
        if not readings:
            return
        self._readings |= {_name(item): reading for item, reading in readings}
        try:
            _save(
                self._path, self._conditions, _load(self._path, self._conditions) | self._readings
            )
            _forget_old(self._path.parent)
        except OSError as error:
            self.trouble = str(error)


def _name(item: PromptedItem) -> str:
    return _digest(json.dumps([item.prompt, item.reference, item.answer_limit, item.choices]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, conditions: str, readings: Mapping[str, ItemOutput]) -> None:
    """Write all or nothing: a reader never sees half a file."""
    import numpy as np

    whole = {name: reading for name, reading in readings.items() if reading.outlook is not None}
    outlooks = [reading.outlook for reading in whole.values() if reading.outlook is not None]
    arrays: dict[str, Any] = {
        "names": np.array(list(whole), dtype="S64"),
        "losses": np.array([reading.loss for reading in whole.values()], dtype=np.float64),
        "answer_sizes": np.array([len(reading.answer) for reading in whole.values()], dtype="i8"),
        "answers": np.array([t for reading in whole.values() for t in reading.answer], dtype="i8"),
        "choice_sizes": np.array([len(reading.choices) for reading in whole.values()], dtype="i8"),
        "choices": np.array([c for reading in whole.values() for c in reading.choices], dtype="f8"),
        "outlook_sizes": np.array([len(outlook.tokens) for outlook in outlooks], dtype="i8"),
        "tokens": np.concatenate([outlook.tokens.cpu().numpy() for outlook in outlooks]),
        "log_probabilities": np.concatenate(
            [outlook.log_probabilities.cpu().numpy() for outlook in outlooks]
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                conditions=np.frombuffer(conditions.encode(), dtype=np.uint8),
                digest=np.frombuffer(_digest_of(arrays).encode(), dtype=np.uint8),
                **arrays,
            )
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _load(path: Path, conditions: str) -> dict[str, ItemOutput]:
    import numpy as np

    try:
        require_regular(path, LARGEST)
        with (
            BufferedReader(open_regular(path)) as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
        kept, digest = (arrays.pop(name).tobytes().decode() for name in ("conditions", "digest"))
        if kept != conditions or digest != _digest_of(arrays):
            return {}
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        return dict(_readings(arrays))
    except Exception:  # whatever a damaged file makes numpy raise: it holds nothing
        return {}


def _readings(arrays: "Mapping[str, np.ndarray[Any, Any]]") -> "Iterator[tuple[str, ItemOutput]]":
    import torch

    answers, choices, tokens, values = (
        _parts(arrays[name], arrays[sizes])
        for name, sizes in (
            ("answers", "answer_sizes"),
            ("choices", "choice_sizes"),
            ("tokens", "outlook_sizes"),
            ("log_probabilities", "outlook_sizes"),
        )
    )
    for number, name in enumerate(arrays["names"]):
        yield (
            name.decode(),
            ItemOutput(
                loss=float(arrays["losses"][number]),
                answer=tuple(answers[number].tolist()),
                choices=tuple(choices[number].tolist()),
                outlook=TopKLogprobs(
                    tokens=torch.from_numpy(tokens[number].copy()),
                    log_probabilities=torch.from_numpy(values[number].copy()),
                ),
            ),
        )


def _parts(
    array: "np.ndarray[Any, Any]", sizes: "np.ndarray[Any, Any]"
) -> "list[np.ndarray[Any, Any]]":
    import numpy as np

    return np.split(array, sizes.cumsum()[:-1])


def _digest_of(arrays: "Mapping[str, np.ndarray[Any, Any]]") -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _forget_old(folder: Path) -> None:
    files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MOST_FILES:]:
        path.unlink(missing_ok=True)
