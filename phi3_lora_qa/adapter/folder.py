"""Lists, reads and copies an untrusted adapter folder.

Nothing here follows a symbolic link, blocks on a pipe or opens a pickle. The only sub-folder that
is entered is the one that transformers reads chat templates from.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from pathlib import Path

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES
from phi3_lora_qa.errors import AdapterError, escape, shortage

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
MANIFEST = "lora_qa_manifest.json"
MODEL_CARD = "README.md"
TRAINING_LOG = "trainer_state.json"
MAX_LOG_BYTES = 8 << 20
MODEL_CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
)
OTHER_VOCABULARIES = (
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tiktoken.model", "tekken.json",
)  # fmt: skip
"""Files of other kinds of tokenizers, which transformers also loads."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""The only sub-folder that is read: its templates take precedence over chat_template.jinja."""

EXPECTED_FILES = (CONFIG, WEIGHTS, MANIFEST, MODEL_CARD, *TOKENIZER_FILES)
"""The files that an adapter may consist of."""

_LOADED_FILES = (
    CONFIG, WEIGHTS, MODEL_CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, *OTHER_VOCABULARIES,
    "chat_template.json", "processor_config.json", "preprocessor_config.json", "params.json",
)  # fmt: skip
"""What transformers, peft, vLLM, SGLang or a converter reads by default."""

MAX_ENTRIES = 1000
MAX_FILE_BYTES = 32 << 30
MAX_SPARSE_BYTES = 64 << 20
"""A larger file is rejected if less than an eighth of it is data."""
_CHUNK = 1 << 20
_MAX_SHOWN = 8
_PICKLES = (
    ".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz",
    ".nemo", ".keras", ".h5",
)  # fmt: skip
_CODE = (
    ".py", ".pyc", ".pyd", ".pyw", ".so", ".dll", ".dylib", ".sh", ".bash", ".exe", ".com", ".msi",
    ".bat", ".cmd", ".ps1", ".vbs", ".js", ".mjs", ".jar", ".class", ".wasm", ".pl", ".rb",
)  # fmt: skip
_OTHER_FORMATS = (".gguf", ".ggml", ".onnx", ".msgpack", ".tflite", ".mlmodel")
"""Complete models in other formats; no program reads them from an adapter folder by default."""

_COMPRESSED = re.compile(r"(\.(gz|bz2|xz|zst|lz4|tar|zip))+$")


class EntryKind(StrEnum):
    """The type of a directory entry, by ``lstat``."""

    FILE = "regular file"
    FOLDER = "folder"
    LINK = "symbolic link"
    OTHER = "pipe, socket or device"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One directory entry. ``size`` is in bytes; 0 if the entry is not a regular file."""

    name: str
    kind: EntryKind
    size: int
    identity: tuple[int, int, int, int]

    @property
    def is_pickle(self) -> bool:
        """Whether the file type, by name, is one that can run code when it is opened."""
        return _COMPRESSED.sub("", self.name.lower()).endswith(_PICKLES)

    @property
    def is_code(self) -> bool:
        """Whether the file is a program, by name."""
        return _COMPRESSED.sub("", self.name.lower()).endswith(_CODE)


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """A folder as it was when it was opened; reading a file that changed since is an error."""

    path: Path
    entries: Mapping[str, Entry]

    @classmethod
    def open(cls, path: Path | str) -> "AdapterFolder":
        """List the folder without opening any file in it.

        Raises:
            AdapterError: The path is missing, is not a folder, cannot be listed, has too many
                entries, or contains adapters only in its sub-folders.
        """
        folder = Path(path)
        shown = escape(str(folder))
        try:
            mode = folder.stat().st_mode
        except (OSError, ValueError) as error:
            if short := shortage(error):
                raise short from error
            reason = "no such folder" if isinstance(error, FileNotFoundError) else error
            raise AdapterError(
                f"cannot read the adapter {shown}: {reason}",
                f"pass the folder that peft's save_pretrained wrote, which contains {CONFIG}",
            ) from error
        if not stat.S_ISDIR(mode):
            raise AdapterError(
                f"the adapter {shown} is not a folder",
                f"pass the folder that contains {CONFIG}, not a file in it{_kohya(folder)}",
            )
        try:
            entries = {entry.name: entry for entry in _list(folder)}
        except OSError as error:
            if short := shortage(error):
                raise short from error
            raise AdapterError(
                f"cannot list the adapter {shown}: {error.strerror}", "make the folder readable"
            ) from error
        if not entries.keys() & {CONFIG, WEIGHTS, PICKLED_WEIGHTS}:
            _require_no_adapter_below(folder, entries)
        return cls(path=folder, entries=dict(sorted(entries.items())))

    @property
    def shipped(self) -> tuple[str, ...]:
        """The names of the regular files that ship: these are copied and hashed.

        Pickles, which are never opened, and complete models in other formats are excluded.
        """
        return tuple(
            name
            for name, entry in self.entries.items()
            if self.file(name) and not entry.is_pickle and not name.lower().endswith(_OTHER_FORMATS)
        )

    @property
    def templates(self) -> tuple[str, ...]:
        """The paths of the chat templates in the sub-folder, relative to this folder."""
        inside = (name for name in self.entries if name.startswith(f"{TEMPLATE_FOLDER}/"))
        return tuple(name for name in inside if name.endswith(".jinja") and self.file(name))

    def file(self, name: str) -> Entry | None:
        """Return the entry with this name if it is a regular file, else None."""
        entry = self.entries.get(name)
        return entry if entry and entry.kind is EntryKind.FILE else None

    def open_file(self, name: str) -> FileIO:
        """Open a regular file for reading, without following a link.

        Raises:
            AdapterError: It is missing, not a regular file, a pickle, too large, or has changed.
        """
        entry = self.file(name)
        if entry is None or entry.is_pickle or entry.size > MAX_FILE_BYTES:
            where = f"{escape(name)} in {escape(str(self.path))}"
            raise AdapterError(
                f"cannot read {where}: missing, not a regular file, a pickle, or larger than "
                f"{MAX_FILE_BYTES >> 30} GiB",
                "save the adapter again",
            )
        return self._open(entry)

    def read_head(self, name: str) -> bytes:
        """Return the first bytes of a regular file, which may be a pickle: it is not interpreted.

        Raises:
            AdapterError: It is missing, not a regular file, cannot be opened, or has changed.
        """
        entry = self.file(name)
        if entry is None:
            raise AdapterError(
                f"cannot read {escape(name)}: missing, or not a regular file",
                "save the adapter again",
            )
        with self._open(entry) as handle:
            return handle.read(HEAD_BYTES)

    def _open(self, entry: Entry) -> FileIO:
        name = entry.name
        where = f"{escape(name)} in {escape(str(self.path))}"
        # Non-blocking: if the file has been replaced by a pipe, opening it must not hang.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path / name, flags)
        except OSError as error:
            if short := shortage(error):
                raise short from error
            raise AdapterError(
                f"cannot open {where}: {error.strerror}", "replace it with a readable regular file"
            ) from error
        handle = os.fdopen(descriptor, "rb", buffering=0)
        if entry.size > MAX_SPARSE_BYTES and _is_sparse(descriptor, entry.size):
            handle.close()
            raise AdapterError(
                f"{where} is sparse: most of its {entry.size} bytes are holes without data",
                "copy the file again",
            )
        if _identity(os.fstat(descriptor)) != entry.identity:
            handle.close()
            raise AdapterError(
                f"{where} changed while it was being read",
                "wait until no program writes to the folder, then run again",
            )
        return handle

    def read_bytes(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file of at most ``max_bytes`` bytes.

        Raises:
            AdapterError: As `open_file`, or the file is larger than ``max_bytes``.
        """
        entry = self.file(name)
        if entry and entry.size > max_bytes:
            raise AdapterError(
                f"{escape(name)} is too large: {entry.size} bytes, at most {max_bytes} are allowed",
                "save it again with peft or transformers",
            )
        with self.open_file(name) as handle:
            return b"".join(iter(lambda: handle.read(_CHUNK), b""))

    def sha256(self, name: str) -> str:
        """Return the hexadecimal SHA-256 of a file, read in chunks."""
        import hashlib  # it loads OpenSSL, which listing a folder does not need

        digest = hashlib.sha256()
        with self.open_file(name) as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file that ships, except the manifest."""
        return {name: self.sha256(name) for name in self.shipped if name != MANIFEST}

    def snapshot(self, destination: Path) -> "AdapterFolder":
        """Copy the files that ship into ``destination``, and open the copy.

        The same bytes are then linted, hashed and loaded, even if the folder changes later.
        Only the owner can read the copy.

        Raises:
            AdapterError: A file cannot be read, or the copy cannot be written.
        """
        try:
            destination.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in self.shipped:
                (destination / name).parent.mkdir(mode=0o700, exist_ok=True)
                self._copy(name, destination / name)
        except OSError as error:
            raise AdapterError(
                f"cannot copy the adapter to {escape(str(destination))}: {error.strerror}",
                "free some disk space, or set TMPDIR to a writable folder",
            ) from error
        return AdapterFolder.open(destination)

    def _copy(self, name: str, target: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with (
            self.open_file(name) as source,
            os.fdopen(os.open(target, flags, 0o600), "wb", buffering=0) as copy,
        ):
            while chunk := source.read(_CHUNK):
                rest = memoryview(chunk)
                while rest:  # a write to a disk that is nearly full can be partial
                    rest = rest[copy.write(rest) :]


def is_loaded(name: str) -> bool:
    """Whether a loader reads a file with this name by default."""
    weights = name.endswith((".safetensors", ".safetensors.index.json"))
    inner = name.startswith(f"{TEMPLATE_FOLDER}/") and name.endswith(".jinja")
    return weights or inner or name in _LOADED_FILES


def _kohya(file: Path) -> str:
    """Return the fix for a single file of kohya's sd-scripts, which may be what was passed."""
    if not file.name.endswith(".safetensors"):
        return ""
    return (
        "; if it is a single file of kohya's sd-scripts, convert it: "
        "phi3-lora-qa convert kohya-to-peft FILE --base BASE -o DIR"
    )


def _list(folder: Path) -> Iterator[Entry]:
    for count, entry in enumerate(_scan_all(folder)):
        if count >= MAX_ENTRIES:
            raise AdapterError(
                f"{escape(str(folder))} has more than {MAX_ENTRIES} entries",
                "pass the folder of one adapter, without other files",
            )
        yield entry


def _scan_all(folder: Path) -> Iterator[Entry]:
    """Yield the entries of the folder, and of the sub-folder with chat templates."""
    templates = False
    for entry in _scan(folder, os.O_DIRECTORY, ""):
        templates |= entry.name == TEMPLATE_FOLDER and entry.kind is EntryKind.FOLDER
        yield entry
    if templates:
        flags = os.O_DIRECTORY | os.O_NOFOLLOW
        yield from _scan(folder / TEMPLATE_FOLDER, flags, f"{TEMPLATE_FOLDER}/")


def _scan(folder: Path, flags: int, prefix: str) -> Iterator[Entry]:
    descriptor = os.open(folder, flags | os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as names:
            for item in names:
                status = item.stat(follow_symlinks=False)
                kind = _kind(status.st_mode)
                size = status.st_size if kind is EntryKind.FILE else 0
                name = prefix + item.name
                yield Entry(name=name, kind=kind, size=size, identity=_identity(status))
    finally:
        os.close(descriptor)


def _require_no_adapter_below(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Suggest the sub-folder that was meant.

    peft saves a named adapter into a folder of that name, and a trainer saves into checkpoint-N.
    """
    below = [
        name
        for name, entry in sorted(entries.items())
        if entry.kind is EntryKind.FOLDER and _is_regular(folder / name / CONFIG)
    ]
    if below:
        shown = ", ".join(escape(str(folder / name), 200) for name in below[:_MAX_SHOWN])
        more = f" and {len(below) - _MAX_SHOWN} more" if len(below) > _MAX_SHOWN else ""
        raise AdapterError(
            f"{escape(str(folder))} is not an adapter, but {len(below)} of its sub-folders are",
            f"pass one of them: {shown}{more}",
        )


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_sparse(descriptor: int, size: int) -> bool:
    """Whether most of a large file consists of holes, which take no disk space.

    On file systems that do not report holes, everything counts as data.
    """
    if not hasattr(os, "SEEK_DATA"):
        return False
    data = position = 0
    try:
        while data < size // 8:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
            data += position - start
    except OSError:  # no more data
        return data < size // 8
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return False


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.FOLDER
    return EntryKind.LINK if stat.S_ISLNK(mode) else EntryKind.OTHER


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
