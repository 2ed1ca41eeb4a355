"""Recognises what a file really is by its first bytes, whatever its name says.

Downloads go wrong in known ways: git without git-lfs leaves a pointer, a browser saves the page
around a file, a server answers with a message, and archives and other formats keep a familiar name.
"""

import re
from enum import StrEnum

HEAD_BYTES = 512
"""The number of bytes from which `kind_of` recognises a file."""

_MAX_HEADER = 100_000_000  # of the safetensors library


class FileKind(StrEnum):
    """What a file is. The value completes the sentence "the file is …"."""

    EMPTY = "empty (0 bytes)"
    LFS_POINTER = "a git-lfs pointer"
    WEB_PAGE = "a web page"
    XML = "an XML document"
    SERVER_MESSAGE = "a message of a server"
    JSON = "a JSON document"
    SAFETENSORS = "a safetensors file"
    GGUF = "a GGUF file of llama.cpp"
    PICKLE = "a pickle"
    TORCH_ARCHIVE = "a pickle in a zip archive, as torch.save writes it"
    ZIP = "a zip archive"
    GZIP = "a gzip archive"
    ARCHIVE = "an archive"
    HDF5 = "an HDF5 file"
    NUMPY = "a numpy array"
    IMAGE = "an image or a PDF"

    @property
    def fix(self) -> str:
        """How to get the file that was meant; never empty."""
        return _FIXES[self]


_DOWNLOAD = "download the file again with `hf download`, and compare its size with the hub's"
_UNPACK = "unpack the archive, and use the files in it"
_CONVERTED = "use the folder that peft's save_pretrained wrote, before it was converted"
_PICKLED = "load it where it was trained, and save it with safe_serialization=True"
_FIXES = {
    FileKind.EMPTY: "copy or download the file again; the disk may have been full",
    FileKind.LFS_POINTER: "run `git lfs pull` in the clone that it comes from, or download the "
    "repository with `hf download`",
    FileKind.WEB_PAGE: "download the file itself, not the page that shows it: its address on the "
    "hub has /resolve/ in place of /blob/",
    FileKind.XML: _DOWNLOAD,
    FileKind.SERVER_MESSAGE: "log in with `hf auth login` if the repository is gated, check the "
    "file's address, and download it again",
    FileKind.JSON: _DOWNLOAD,
    FileKind.SAFETENSORS: "give the file its own name, which ends in .safetensors",
    FileKind.GGUF: _CONVERTED,
    FileKind.PICKLE: _PICKLED,
    FileKind.TORCH_ARCHIVE: _PICKLED,
    FileKind.ZIP: _UNPACK,
    FileKind.GZIP: _UNPACK,
    FileKind.ARCHIVE: _UNPACK,
    FileKind.HDF5: _CONVERTED,
    FileKind.NUMPY: _CONVERTED,
    FileKind.IMAGE: _DOWNLOAD,
}

_LFS = re.compile(rb"version https?://[^\s]*/spec/v\d|version https://git-lfs")
_PAGE = re.compile(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.I)
_JSON_MESSAGE = re.compile(rb'\{\s*"(error|errors|detail)"\s*:')
_JSON = re.compile(rb'\{\s*["}]|\[\s*["\[\]{\d-]')
_MESSAGES = (
    b"entry not found", b"repository not found", b"not found", b"invalid username or password",
    b"access to model", b"access denied", b"unauthorized", b"forbidden", b"too many requests",
    b"internal server error", b"bad gateway", b"service unavailable", b"gateway time",
    b"404: ", b"403: ", b"401: ", b"404 ", b"403 ", b"401 ", b"502 ", b"503 ", b"429 ",
)  # fmt: skip
_MAGIC = (
    (b"GGUF", FileKind.GGUF),
    (b"\x1f\x8b", FileKind.GZIP),
    (b"BZh", FileKind.ARCHIVE),
    (b"\xfd7zXZ\x00", FileKind.ARCHIVE),
    (b"\x28\xb5\x2f\xfd", FileKind.ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", FileKind.ARCHIVE),
    (b"Rar!\x1a\x07", FileKind.ARCHIVE),
    (b"\x04\x22\x4d\x18", FileKind.ARCHIVE),
    (b"\x89HDF\r\n\x1a\n", FileKind.HDF5),
    (b"\x93NUMPY", FileKind.NUMPY),
    (b"\x89PNG\r\n", FileKind.IMAGE),
    (b"\xff\xd8\xff", FileKind.IMAGE),
    (b"GIF8", FileKind.IMAGE),
    (b"%PDF-", FileKind.IMAGE),
)


def kind_of(head: bytes) -> FileKind | None:
    """Return what a file is, by its first bytes.

    Args:
        head: The first `HEAD_BYTES` bytes of the file; all of them if it is shorter.

    Returns:
        The kind, or None if it is none of the known ones, such as plain text.

    Example:
        >>> kind_of(b"version https://git-lfs.github.com/spec/v1").value
        'a git-lfs pointer'
        >>> kind_of(b"Hello.") is None
        True
    """
    if not head:
        return FileKind.EMPTY
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        return FileKind.SAFETENSORS
    return _binary_kind(head) or _text_kind(head)


def foreign_kind(name: str, head: bytes) -> FileKind | None:
    """Return what a file is if its name promises something else; None if it may be what it says.

    Args:
        name: The file's name, with or without folders.
        head: As for `kind_of`.

    Returns:
        The kind that does not fit the name, or None.

    Example:
        >>> foreign_kind("config.json", b"<!DOCTYPE html><html>").value
        'a web page'
        >>> foreign_kind("config.json", b'{"a": 1}') is None
        True
    """
    kind = kind_of(head)
    return None if kind in _promised(name.lower()) else kind


def _promised(name: str) -> tuple[FileKind | None, ...]:
    """Return the kinds that fit a file's name. None is a kind that is not known."""
    if name.endswith(".json"):
        return (FileKind.JSON, None)
    if name.endswith(".safetensors"):
        return (FileKind.SAFETENSORS, None)
    if name.endswith((".bin", ".pt", ".pth", ".ckpt")):
        return (FileKind.PICKLE, FileKind.TORCH_ARCHIVE, None)
    if name.endswith((".jinja", ".txt", ".md")):
        return (FileKind.JSON, FileKind.EMPTY, FileKind.SERVER_MESSAGE, FileKind.XML, None)
    if name.endswith(".model"):
        return (None,)
    return (*FileKind, None)


def _binary_kind(head: bytes) -> FileKind | None:
    if head.startswith(b"PK\x03\x04"):
        return FileKind.TORCH_ARCHIVE if b"/data.pkl" in head else FileKind.ZIP
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return FileKind.PICKLE
    if head[257:262] == b"ustar":
        return FileKind.ARCHIVE
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def _text_kind(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text.lower()
    if _LFS.match(text):
        return FileKind.LFS_POINTER
    if _PAGE.match(text):
        return FileKind.WEB_PAGE
    if lower.startswith((b"<?xml", b"<error>")):
        return FileKind.XML
    is_short = len(head) < HEAD_BYTES
    if is_short and _JSON_MESSAGE.match(text):
        return FileKind.SERVER_MESSAGE
    if _JSON.match(text):
        return FileKind.JSON
    return FileKind.SERVER_MESSAGE if is_short and lower.startswith(_MESSAGES) else None
