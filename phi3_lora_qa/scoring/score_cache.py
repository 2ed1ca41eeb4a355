"""A base's outputs, cached on disk, so that a second adapter only costs the tuned model's time.

Everything that an output depends on is part of its key: the base's weights and config, the tokens
of prompt and reference, the limit and the stop tokens of the answer, the engine, the libraries and
the processor. Nothing is ever looked up by the name of a model or a suite, so a stale output cannot
be found. Only outputs of a plain base are cached, never those of a tuned model.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.atomic_write import write_whole
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.reading import open_regular, require_regular
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from phi3_lora_qa.scoring.losses import TopKLogprobs
from phi3_lora_qa.scoring.prompts import TokenizedItem

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".npz"
MAX_FILES = 20
"""The least recently used files beyond this number are deleted."""
MAX_BYTES = 512 << 20

_FORMAT = 3
"""Increased whenever what is cached, or how it is computed, changes."""


class ScoreCache:
    """The outputs of one base under one set of conditions, in one file.

    A file that is missing, damaged or too large counts as empty. Outputs that cannot be written are
    computed again the next time.

    Args:
        folder: The folder of the files; created on the first write.
        conditions: Everything that outputs depend on apart from the items' tokens, by name.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, object]) -> None:
        self._conditions = json.dumps(
            {"format": _FORMAT, **conditions}, sort_keys=True, default=str
        )
        self._path = folder / f"{_sha256(self._conditions)}{SUFFIX}"
        self._outputs = _load(self._path, self._conditions)
        self.hits = 0
        self.write_error = ""

    def find(self, item: TokenizedItem) -> ItemOutput | None:
        """Return the cached output of an item, if there is one; ``hits`` counts them."""
        output = self._outputs.get(_key(item))
        self.hits += output is not None
        return output

    def add(self, outputs: Sequence[tuple[TokenizedItem, ItemOutput]]) -> None:
        """Cache outputs, in addition to those that another process has cached since.

        If they cannot be written, ``write_error`` says why.
        """
        if not outputs:
            return
        self._outputs |= {_key(item): output for item, output in outputs}
        try:
            _save(self._path, self._conditions, _load(self._path, self._conditions) | self._outputs)
            _delete_oldest(self._path.parent)
        except (OSError, InputError) as error:
            self.write_error = str(error.__cause__ or error)


def _key(item: TokenizedItem) -> str:
    return _sha256(json.dumps([item.prompt, item.reference, item.answer_limit, item.choices]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, conditions: str, outputs: Mapping[str, ItemOutput]) -> None:
    """Write the whole file and rename it into place, so that no reader sees a part of it."""
    import numpy as np

    arrays = _to_arrays(outputs)
    data = io.BytesIO()
    np.savez(
        data,
        conditions=np.frombuffer(conditions.encode(), dtype=np.uint8),
        digest=np.frombuffer(_digest(arrays).encode(), dtype=np.uint8),
        **arrays,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data.getvalue())


def _to_arrays(outputs: Mapping[str, ItemOutput]) -> dict[str, Any]:
    """Return the outputs as arrays; lists of different lengths are joined, with their sizes."""
    import numpy as np

    whole = {key: output for key, output in outputs.items() if output.top_k is not None}
    values = whole.values()
    top_ks = [output.top_k for output in values if output.top_k is not None]
    return {
        "keys": np.array(list(whole), dtype="S64"),
        "losses": np.array([output.loss for output in values], dtype=np.float64),
        "answer_sizes": np.array([len(output.answer) for output in values], dtype="i8"),
        "answers": np.array([t for output in values for t in output.answer], dtype="i8"),
        "choice_sizes": np.array([len(output.choices) for output in values], dtype="i8"),
        "choices": np.array([c for output in values for c in output.choices], dtype="f8"),
        "top_k_sizes": np.array([len(top_k.tokens) for top_k in top_ks], dtype="i8"),
        "tokens": np.concatenate([top_k.tokens.cpu().numpy() for top_k in top_ks]),
        "log_probabilities": np.concatenate(
            [top_k.log_probabilities.cpu().numpy() for top_k in top_ks]
        ),
    }


def _load(path: Path, conditions: str) -> dict[str, ItemOutput]:
    import numpy as np

    try:
        require_regular(path, MAX_BYTES)
        with (
            BufferedReader(open_regular(path)) as opened,
            np.load(opened, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
        saved, digest = (arrays.pop(name).tobytes().decode() for name in ("conditions", "digest"))
        if saved != conditions or digest != _digest(arrays):
            return {}
        with suppress(OSError):  # the folder may be read-only
            os.utime(path)
        return dict(_from_arrays(arrays))
    except Exception:  # numpy may raise anything on a damaged file, which then counts as empty
        return {}


def _from_arrays(
    arrays: "Mapping[str, np.ndarray[Any, Any]]",
) -> "Iterator[tuple[str, ItemOutput]]":
    import torch

    answers, choices, tokens, log_probabilities = (
        _split(arrays[name], arrays[sizes])
        for name, sizes in (
            ("answers", "answer_sizes"),
            ("choices", "choice_sizes"),
            ("tokens", "top_k_sizes"),
            ("log_probabilities", "top_k_sizes"),
        )
    )
    for number, key in enumerate(arrays["keys"]):
        yield (
            key.decode(),
            ItemOutput(
                loss=float(arrays["losses"][number]),
                answer=tuple(answers[number].tolist()),
                choices=tuple(choices[number].tolist()),
                top_k=TopKLogprobs(
                    tokens=torch.from_numpy(tokens[number].copy()),
                    log_probabilities=torch.from_numpy(log_probabilities[number].copy()),
                ),
            ),
        )


def _split(
    array: "np.ndarray[Any, Any]", sizes: "np.ndarray[Any, Any]"
) -> "list[np.ndarray[Any, Any]]":
    import numpy as np

    return np.split(array, sizes.cumsum()[:-1])


def _digest(arrays: "Mapping[str, np.ndarray[Any, Any]]") -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _delete_oldest(folder: Path) -> None:
    files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MAX_FILES:]:
        path.unlink(missing_ok=True)
