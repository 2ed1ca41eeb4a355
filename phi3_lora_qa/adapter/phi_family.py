"""Whether a base is a Phi-3, in its own layout or in Llama's: by its names and its chat markers."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from phi3_lora_qa.adapter.architecture import LLAMA, MISTRAL, PHI3, architecture_of

_PHI_NAME = re.compile(r"(?<![a-z])phi[-_ ]?(3|4)(?!\d)", re.IGNORECASE)
_MARKERS = ((b"<|assistant|>", b"<|end|>"), (b"<|im_sep|>", b"<|im_start|>"))
"""The chat tokens of Phi-3, Phi-3.5 and Phi-4-mini, and those of Phi-4."""
_MARKED_FILES = ("tokenizer_config.json", "tokenizer.json")
_MAX_TOKENIZER = 64 << 20


class Folder(Protocol):
    """A folder with a base's files."""

    def read_bytes(self, name: str, max_bytes: int, /) -> bytes | None:
        """Return the content of a file, or None if it is missing."""
        ...


def is_phi_name(name: str) -> bool:
    """Whether a model's id or name says that it is a Phi-3 or a Phi-4."""
    return bool(_PHI_NAME.search(name.rpartition("/")[2]))


def is_phi(config: Mapping[str, Any], name: str, folder: Folder) -> bool:
    """Whether a base is a Phi-3 or a Phi-4.

    Args:
        config: The content of its config.json.
        name: Its public id; empty if it is unknown.
        folder: Its files. The tokenizer of a base in Llama's layout shows what it is.
    """
    architecture = architecture_of(config)
    if architecture not in (LLAMA, MISTRAL):
        return architecture is PHI3
    if is_phi_name(name):
        return True
    return has_phi_markers(folder)


def has_phi_markers(folder: Folder) -> bool:
    """Whether the tokenizer in a folder has the chat tokens of a Phi-3 or Phi-4."""
    texts = [folder.read_bytes(file, _MAX_TOKENIZER) or b"" for file in _MARKED_FILES]
    return any(all(marker in text for marker in pair) for pair in _MARKERS for text in texts)
