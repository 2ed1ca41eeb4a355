"""Compares the behaviour of a folder's tokenizer with the base's in a bounded child process.

Rules that compare files explain a difference. This comparison finds out whether there is one: both
tokenizers are loaded by every loader, and encode and decode the same texts.
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
from phi3_lora_qa.adapter.tokenizer.tokenizer_loaders import MAX_TOKENIZER_BYTES
from phi3_lora_qa.errors import BaseModelError, MachineError, escape

LIMITS = Limits(
    wall_seconds=2.0 * CPU_SECONDS,
    cpu_seconds=CPU_SECONDS,
    memory_mib=MEMORY_MIB,
    output_bytes=16 << 20,
    open_files=64,
)
_LIBRARIES = (
    "transformers", "tokenizers", "sentencepiece", "huggingface_hub", "numpy", "regex",
    "phi3_lora_qa",
)  # fmt: skip
_OTHER_FILES_READ = (MODEL_CONFIG, CONFIG, "processor_config.json", "preprocessor_config.json")


class DifferenceKind(StrEnum):
    """How two tokenizers differ on a text."""

    IDS = "ids"
    SPECIAL_TOKENS = "special tokens"
    TEXT = "text"
    WHITESPACE = "whitespace"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A text on which the folder's tokenizer and the base's differ.

    Attributes:
        loader: What loaded the tokenizer: ``transformers``, or the name of a single file.
        kind: What differs: the ids; the special tokens around them; the decoded text, in its words
            or only in whitespace.
        text: The encoded text.
        ours: The result of the folder's tokenizer, as text.
        theirs: The result of the base's tokenizer, as text.
        count: The number of texts with a difference of this loader and kind.
    """

    loader: str
    kind: DifferenceKind
    text: str
    ours: str
    theirs: str
    count: int


@dataclass(frozen=True, kw_only=True)
class TokenizerComparison:
    """The result of a comparison. Texts may contain any character.

    Attributes:
        differences: Some examples for each loader and kind.
        load_errors: Why the folder's tokenizer could not be loaded, by loader.
        new_words: Added tokens that the base does not have and that may occur in ordinary text,
            with ids.
        matched_variants: By loader, the variant of the base's tokenizer that it matches.
        error: Why there is no result; empty if the comparison was completed.
    """

    differences: tuple[Difference, ...] = ()
    load_errors: Mapping[str, str]
    new_words: Mapping[str, int]
    matched_variants: Mapping[str, str]
    error: str = ""


def compare_tokenizers(
    folder: AdapterFolder, base: BaseFiles, leave_out: Iterable[str] = ()
) -> TokenizerComparison | None:
    """Load the tokenizers of both folders and compare them; takes about two seconds.

    Args:
        folder: The adapter's folder.
        base: The base's files.
        leave_out: Tokens in texts that are not compared, because no prompt contains them.

    Returns:
        The differences, or None if the folder has no tokenizer, or the base's own files.

    Raises:
        BaseModelError: The base's tokenizer cannot be loaded.
        MachineError: The comparison failed, and the process has less memory than it may need.
        MissingDependencyError: transformers, tokenizers or sentencepiece is not installed.
    """
    if not _has_tokenizer(folder) or _is_identical(folder, base):
        return None
    with _private_copies(folder, base) as (own, bare):
        job = {
            "base": str(base.path), "bare": str(bare), "folder": str(own), "texts": TEXTS,
            "leave_out": sorted(leave_out),
        }  # fmt: skip
        program = Path(tokenizer_behaviour_child.__file__).resolve()
        output, failure = run_child(
            program, folders_of(*_LIBRARIES), json.dumps(job).encode("ascii"), LIMITS
        )
    if not output.startswith(READY):
        raise BaseModelError(
            f"cannot load a tokenizer from {escape(str(base.path))}: {failure or 'no output'}; "
            "download the base again, and check that transformers, tokenizers and sentencepiece "
            "can be imported"
        )
    try:
        return _parse_result(json.loads(output[len(READY) :]))
    except (ValueError, KeyError, TypeError) as fault:  # it was killed before it had finished
        _require_memory(fault)
        error = (
            "it cannot be loaded and compared within ten times the CPU time of the base's and "
            f"{MEMORY_MIB} MiB of memory"
        )
        return TokenizerComparison(load_errors={}, new_words={}, matched_variants={}, error=error)


def _require_memory(fault: Exception) -> None:
    """Blame the machine, not the adapter, if the process may use less memory than the child."""
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < MEMORY_MIB << 20:
        raise MachineError(
            f"not enough address space: comparing tokenizers may take {MEMORY_MIB} MiB, and the "
            f"limit of this process is {soft >> 20} MiB; raise the limit (ulimit -v)"
        ) from fault


def _parse_result(raw: Mapping[str, Any]) -> TokenizerComparison:
    return TokenizerComparison(
        differences=tuple(
            Difference(**d | {"kind": DifferenceKind(d["kind"])}) for d in raw["differences"]
        ),
        load_errors=dict(raw["load_errors"]),
        new_words=dict(raw["new_words"]),
        matched_variants=dict(raw["matched_variants"]),
    )


def _has_tokenizer(folder: AdapterFolder) -> bool:
    """Whether loaders find a tokenizer in the folder, and do not fall back to the base's."""
    named = (SETTINGS, VOCABULARY, PIECES, *OTHER_VOCABULARIES)
    return any(map(folder.file, named))


def _is_identical(folder: AdapterFolder, base: BaseFiles) -> bool:
    """Whether every loader finds the base's own files, and loads the same tokenizer from them.

    transformers chooses the class by config.json, which an adapter folder need not have. The
    generic classes are an exception: they follow tokenizer.json.
    """
    is_generic = read_object(base, SETTINGS).get("tokenizer_class") in _GENERIC_CLASSES
    if not is_generic and not folder.file(MODEL_CONFIG):
        return False
    names = (name for name in (*TOKENIZER_FILES, *OTHER_VOCABULARIES) if name not in _NO_TOKENIZER)
    present = [name for name in names if folder.file(name) or base.has_file(name)]
    if folder.file(MODEL_CONFIG):
        present.append(MODEL_CONFIG)
    return all(_same_bytes(folder, base, name) for name in present) and _same_settings(folder, base)


def _same_settings(folder: AdapterFolder, base: BaseFiles) -> bool:
    ours, theirs = (read_object(place, SETTINGS) for place in (folder, base))
    return all(ours.get(n) == theirs.get(n) for n in {**ours, **theirs} if n not in _NO_EFFECT)


_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_NO_TOKENIZER = (SETTINGS, "chat_template.jinja", "chat_template.json", "processor_config.json")
"""Settings are compared by value, and templates by other rules."""

_NO_EFFECT = (
    "backend", "is_local", "local_files_only", "name_or_path", "chat_template", "padding_side",
    "truncation_side", "model_max_length", "processor_class",
)  # fmt: skip
"""Settings that do not affect how a text is encoded."""


def _same_bytes(folder: AdapterFolder, base: BaseFiles, name: str) -> bool:
    entry = folder.file(name)
    theirs = (
        base.sha256(name, size=entry.size) if entry and entry.size <= MAX_TOKENIZER_BYTES else ""
    )
    return bool(theirs) and theirs == folder.sha256(name)


@contextmanager
def _private_copies(folder: AdapterFolder, base: BaseFiles) -> Iterator[tuple[Path, Path]]:
    """Copy the files that loaders read: the folder may change, and contain links to any place.

    Raises:
        AdapterError: A file cannot be read, or is larger than the limit.
    """
    import shutil
    import tempfile

    names = (*TOKENIZER_FILES, *OTHER_VOCABULARIES)
    place = Path(tempfile.mkdtemp(prefix="phi3-lora-qa-"))
    try:
        own, bare = place / "folder", place / "base"
        _write(
            own,
            (
                (n, folder.read_bytes(n, MAX_TOKENIZER_BYTES))
                for n in (*names, *_OTHER_FILES_READ)
                if folder.file(n)
            ),
        )
        _write(
            bare,
            ((n, d) for n in names if (d := base.read_bytes(n, MAX_TOKENIZER_BYTES)) is not None),
        )
        yield own, bare
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    folder.mkdir()
    for name, data in files:
        (folder / name).write_bytes(data)
