"""What the tokenizer of a folder does, tried beside the base's in a bounded child process.

Rules that compare files explain a difference. This tells whether there is one: both are made in
every way that a loader makes them, and cut the same texts.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.bounded_process import Limits, folders_of, run_child
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MODEL_CONFIG,
    OTHER_VOCABULARIES,
    TOKENIZER_FILES,
    AdapterFolder,
)
from phi3_lora_qa.adapter.tokenizer import tokenizer_behaviour_child
from phi3_lora_qa.adapter.tokenizer.probe_texts import TEXTS
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import PIECES
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour_child import CPU_SECONDS, MEMORY_MIB, READY
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS, read_object
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import VOCABULARY
from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import MAX_FILE
from phi3_lora_qa.errors import BaseModelError, MachineError, escape

LIMITS = Limits(
    wall_seconds=2.0 * CPU_SECONDS,
    cpu_seconds=CPU_SECONDS,
    memory_mib=MEMORY_MIB,
    answer_bytes=16 << 20,
    open_files=64,
)
_LIBRARIES = (
    "transformers", "tokenizers", "sentencepiece", "huggingface_hub", "numpy", "regex",
    "phi3_lora_qa",
)  # fmt: skip
_READ = (MODEL_CONFIG, CONFIG, "processor_config.json", "preprocessor_config.json")


class Kind(StrEnum):
    """How two tokenizers differ on a text."""

    IDS = "ids"
    FRAME = "frame"
    TEXT = "text"
    BLANKS = "blanks"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One text on which the folder's tokenizer and the base's differ.

    Attributes:
        way: How the tokenizer was made: ``transformers``, or of a file, by its name.
        kind: What differs: the ids; what is put around them; the text that ids become, in its
            words or in blanks alone.
        text: The text that was cut.
        ours: What the folder's tokenizer made of it, as text.
        theirs: What the base's made of it.
        count: How many texts differ in this way and kind.
    """

    way: str
    kind: Kind
    text: str
    ours: str
    theirs: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial. Texts may hold any character.

    Attributes:
        differences: Some for each way and kind.
        failed: Why a tokenizer could not be made, by the way.
        words: Added tokens that the base does not have and that may stand in any text, with ids.
        like: Ways in which it is like another version's spelling of the base's, and which.
        error: Why nothing is known, in words; empty where the trial came to its end.
    """

    differences: tuple[Difference, ...] = ()
    failed: Mapping[str, str]
    words: Mapping[str, int]
    like: Mapping[str, str]
    error: str = ""


def try_tokenizer(folder: AdapterFolder, base: BaseFiles) -> Trial | None:
    """Make the tokenizers of both folders, and let them cut the same texts: about two seconds.

    Returns:
        What differs, or None where there is no tokenizer to try, or it is the base's to the byte.

    Raises:
        BaseModelError: No tokenizer can be made of the base's files.
        MachineError: The process has less memory than the trial may take, and it failed.
        MissingDependencyError: transformers, tokenizers or sentencepiece is not installed.
    """
    if not _is_tokenizer(folder) or _is_the_bases(folder, base):
        return None
    with _private_copies(folder, base) as (own, bare):
        job = {"base": str(base.path), "bare": str(bare), "folder": str(own), "texts": TEXTS}
        program = Path(tokenizer_behaviour_child.__file__).resolve()
        output, ending = run_child(
            program, folders_of(*_LIBRARIES), json.dumps(job).encode("ascii"), LIMITS
        )
    if not output.startswith(READY):
        raise BaseModelError(
            f"no tokenizer can be made of the files in {escape(str(base.path))} "
            f"({ending or 'no word of it'}); fetch the base again, and see that transformers, "
            "tokenizers and sentencepiece can be imported"
        )
    try:
        return _read(json.loads(output[len(READY) :]))
    except (ValueError, KeyError, TypeError) as fault:  # it was ended before it had written all
        _require_memory(fault)
        error = (
            "within ten times the computing time of the base's and "
            f"{MEMORY_MIB} MiB of memory, no program that makes it comes to an end"
        )
        return Trial(failed={}, words={}, like={}, error=error)


def _require_memory(fault: Exception) -> None:
    """Let a process that may use less memory than the child is promised blame no adapter."""
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < MEMORY_MIB << 20:
        raise MachineError(
            f"trying a tokenizer may take {MEMORY_MIB} MiB of address space, and this process may "
            f"have {soft >> 20}; raise its limit (ulimit -v)"
        ) from fault


def _read(raw: Mapping[str, Any]) -> Trial:
    return Trial(
        differences=tuple(Difference(**d | {"kind": Kind(d["kind"])}) for d in raw["differences"]),
        failed=dict(raw["failed"]),
        words=dict(raw["words"]),
        like=dict(raw["like"]),
    )


def _is_tokenizer(folder: AdapterFolder) -> bool:
    """Whether a loader finds a tokenizer here, rather than taking the base's."""
    named = (SETTINGS, VOCABULARY, PIECES, *OTHER_VOCABULARIES)
    return any(map(folder.file, named))


def _is_the_bases(folder: AdapterFolder, base: BaseFiles) -> bool:
    """Whether every loader finds the base's tokenizer, and makes the same of it.

    Of what class, transformers decides by config.json, which an adapter's folder need not have;
    but for those that make of a tokenizer.json what it says.
    """
    named = read_object(base, SETTINGS).get("tokenizer_class") in _AS_THE_FILE_SAYS
    if not named and not folder.file(MODEL_CONFIG):
        return False
    names = (name for name in (*TOKENIZER_FILES, *OTHER_VOCABULARIES) if name not in _NO_TOKENIZER)
    there = [name for name in names if folder.file(name) or base.has_file(name)]
    if folder.file(MODEL_CONFIG):
        there.append(MODEL_CONFIG)
    return all(_same_bytes(folder, base, name) for name in there) and _same_settings(folder, base)


def _same_settings(folder: AdapterFolder, base: BaseFiles) -> bool:
    ours, theirs = (read_object(place, SETTINGS) for place in (folder, base))
    return all(ours.get(n) == theirs.get(n) for n in {**ours, **theirs} if n not in _NO_EFFECT)


_AS_THE_FILE_SAYS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_NO_TOKENIZER = (SETTINGS, "chat_template.jinja", "chat_template.json", "processor_config.json")
"""Settings are compared by what they say, and templates by rules of their own."""

_NO_EFFECT = (
    "backend", "is_local", "local_files_only", "name_or_path", "chat_template", "padding_side",
    "truncation_side", "model_max_length", "processor_class",
)  # fmt: skip
"""Settings that change nothing of how a text is cut."""


def _same_bytes(folder: AdapterFolder, base: BaseFiles, name: str) -> bool:
    entry = folder.file(name)
    theirs = base.sha256(name, size=entry.size) if entry and entry.size <= MAX_FILE else ""
    return bool(theirs) and theirs == folder.sha256(name)


@contextmanager
def _private_copies(folder: AdapterFolder, base: BaseFiles) -> Iterator[tuple[Path, Path]]:
    """Copy what loaders read for a tokenizer: the folder may change, and its links lead anywhere.

    Raises:
        AdapterError: A file cannot be read, or is larger than any tokenizer's.
    """
    import shutil
    import tempfile

    names = (*TOKENIZER_FILES, *OTHER_VOCABULARIES)
    place = Path(tempfile.mkdtemp(prefix="phi3-lora-qa-"))
    try:
        own, bare = place / "folder", place / "base"
        _write(
            own, ((n, folder.read_bytes(n, MAX_FILE)) for n in (*names, *_READ) if folder.file(n))
        )
        _write(bare, ((n, d) for n in names if (d := base.read_text(n, MAX_FILE)) is not None))
        yield own, bare
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    folder.mkdir()
    for name, data in files:
        (folder / name).write_bytes(data)
