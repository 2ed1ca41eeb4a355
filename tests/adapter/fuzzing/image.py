"""The content of a folder before it is written; the steps change it."""

import json
import shutil
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.folder import TEMPLATE_FOLDER, TRAINING_LOG, WEIGHTS
from tests.adapter.packing import Raw

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
OLDER = ("special_tokens_map.json", "added_tokens.json", TRAINING_LOG)
PIECES, INNER = "tokenizer.model", f"{TEMPLATE_FOLDER}/rag.jinja"
HEADER = "header"
"""The name of the weights' header as a JSON document."""
CANARY = "canary-9b1e"
"""A text in files outside the folder, where links lead; no finding may contain it."""


Members = list[tuple[str, str]]
"""The members of a JSON object, key and value as text, which may be invalid JSON."""


@dataclass
class Image:
    """A folder before it is written: files by name, some of them opened as JSON documents."""

    files: dict[str, bytes]
    room: Path
    name: str = "adapter"
    documents: dict[str, Members] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.room / self.name

    def members(self, file: str) -> Members:
        """Open a file as a JSON document; a file that is not a JSON object has no members."""
        if file not in self.documents:
            data = split(self.files.get(WEIGHTS, b""))[0] if file == HEADER else b""
            found = parsed(data if file == HEADER else self.files.get(file, b""))
            pairs = found.items() if isinstance(found, dict) else ()
            self.documents[file] = [(json.dumps(k), json.dumps(v)) for k, v in pairs]
        return self.documents[file]

    def close_documents(self) -> None:
        for file, members in self.documents.items():
            text = "{" + ",".join(f"{key}:{value}" for key, value in members) + "}"
            data = text.encode("utf-8", "surrogatepass")
            if file == HEADER:
                rest = split(self.files.get(WEIGHTS, b""))[1]
                self.files[WEIGHTS] = struct.pack("<Q", len(data)) + data + rest
            elif members or file in self.files:
                self.files[file] = data
        self.documents.clear()

    def vacant(self, name: str) -> Path:
        """Return the path of a name in the folder, after removing what is there."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def regular(self, name: str) -> Path:
        """Return the path of a regular file; only these are safe to open or change.

        Raises:
            FileNotFoundError: It is missing or not a regular file.
        """
        path = self.folder / name
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileNotFoundError(name)
        return path


def parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def split(weights: bytes) -> tuple[bytes, bytes]:
    """Return the header and data of a safetensors file; both are empty if it is invalid."""
    length = int.from_bytes(weights[:8], "little")
    is_complete = len(weights) >= 8 + length
    return (weights[8 : 8 + length], weights[8 + length :]) if is_complete else (b"", b"")


def unpack(weights: bytes) -> dict[str, Raw]:
    header, data = split(weights)
    found = parsed(header) or {}
    found.pop("__metadata__", None)
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in found.items()
    }
