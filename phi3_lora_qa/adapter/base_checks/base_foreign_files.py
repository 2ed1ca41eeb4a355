"""Finds files of a base that are not what their names say: pointers, web pages, archives."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, FileKind, foreign_kind
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.reading import open_regular

_READ = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files that are read, besides the weights."""
_WEIGHTS = (".safetensors", ".index.json")
_MOST_SHARDS = 2000


@dataclass(frozen=True)
class ForeignFile:
    """A file of a base, and what it is instead of what its name says."""

    name: str
    kind: FileKind

    @property
    def fault(self) -> str:
        """What is wrong, such as ``config.json is a web page``."""
        return f"{self.name} is {self.kind}"

    @property
    def fix(self) -> str:
        """How to get the file that was meant."""
        return _FIXES.get(self.kind, _DOWNLOAD)


_DOWNLOAD = "download the base again with `hf download`"
_PICKLED = "save the base again as safetensors, with save_pretrained"
_FIXES = {
    kind: kind.fix
    for kind in (
        FileKind.LFS_POINTER,
        FileKind.WEB_PAGE,
        FileKind.SERVER_MESSAGE,
        FileKind.ZIP,
        FileKind.GZIP,
        FileKind.ARCHIVE,
    )
} | {
    FileKind.GGUF: "use the folder with safetensors that it was converted from",
    FileKind.PICKLE: _PICKLED,
    FileKind.TORCH_ARCHIVE: _PICKLED,
}


def foreign_files(folder: Path) -> Iterator[ForeignFile]:
    """Yield the files of a base that are not what their names say.

    Only the files that are read are looked at, and only their first bytes. One that cannot be
    opened is left to its reader, which says why.
    """
    for name in (*_READ, *_weights(folder)):
        try:
            with open_regular(folder / name) as stream:
                head = stream.read(HEAD_BYTES) or b""
        except (OSError, ValueError):
            continue
        if kind := foreign_kind(name, head):
            yield ForeignFile(name, kind)


def require_own_files(folder: Path) -> None:
    """Raise BaseModelError if a file of a base is not what its name says."""
    found = list(foreign_files(folder))
    if found:
        more = f" (and {len(found) - 1} more such files)" if len(found) > 1 else ""
        raise BaseModelError(
            f"the base in {escape(str(folder))} cannot be used (basemodel-files): "
            f"{escape(found[0].fault)}{more}; {found[0].fix}"
        )


def _weights(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir() if path.name.endswith(_WEIGHTS)]
    except OSError:
        return []
    return sorted(names)[:_MOST_SHARDS]
