"""Recognises texts that are paths, file names or addresses. Nothing is opened or followed."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ADDRESS = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{1,60}:/{1,3}\S|(file|data):\S|[\w.-]+@[\w.-]+:\S"
    r"|(localhost|\d{1,3}(\.\d{1,3}){3})(:\d|/|$)",
    re.IGNORECASE,
)
_ROOTED = re.compile(
    r"/\S|~[\w.-]*[/\\]|\.{1,2}[/\\]\w|\\\\\w|[A-Za-z]:[/\\]|\$\{?[A-Za-z_]\w*\}?[/\\]"
    r"|%[A-Za-z_]\w*%[/\\]",
    re.ASCII,
)
_FILE = re.compile(
    r"\.(pt|pth|pt2|bin|pkl|pickle|ckpt|joblib|dill|npy|npz|h5|hdf5|safetensors|gguf|ggml|onnx|nemo"
    r"|json|jsonl|ya?ml|toml|ini|cfg|txt|csv|tsv|parquet|arrow|db|sqlite|log|py|so|dll|sh|exe|jar"
    r"|zip|tar|t?gz|bz2|xz|zst|jinja|md|distcp)$",
    re.IGNORECASE,
)
_PATH_FIELD = re.compile(
    r"(?i:(^|[_-])(path|file|filename|dir|directory|folder|url|uri)s?)$"
    r"|[a-z](Path|File|FileName|Filename|Dir|Directory|Folder|Url|URL|Uri|URI)s?$"
)
_TWO_SLASHES = re.compile(r"[^/\s]+/[^/]+/")
_MOST_CHARACTERS = 4096


def looks_like_path(text: str) -> bool:
    """Return whether a text is a path, a file's name or an address, judging by its form.

    An id such as ``microsoft/Phi-3-mini-4k-instruct``, with one slash, is not.
    """
    found = text[:_MOST_CHARACTERS].strip()
    if _ADDRESS.match(found) or _ROOTED.match(found):
        return True
    return "\n" not in found and bool(_FILE.search(found) or _TWO_SLASHES.match(found))


def paths_below(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of each path in a field of a JSON file, at any depth.

    A text in a field whose name says that it is a path, such as ``cache_file``, always counts.

    Args:
        field: The field's name, with which the places begin.
        value: Its value.
    """
    pending: list[tuple[str, str, Any]] = [(field, field, value)]
    while pending:
        place, name, found = pending.pop()
        if isinstance(found, str):
            if found.strip() and (looks_like_path(found) or _PATH_FIELD.search(name)):
                yield place, found
        elif isinstance(found, Mapping):
            for key in reversed(found):
                if looks_like_path(key):
                    pending.append((f"{place}: key", "", key))
                pending.append((f"{place}.{key}", key, found[key]))
        elif isinstance(found, list):
            pending += [(f"{place}[{n}]", name, found[n]) for n in reversed(range(len(found)))]
