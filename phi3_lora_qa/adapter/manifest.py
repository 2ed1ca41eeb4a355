"""lora_qa_manifest.json: what training recorded about an adapter, for the gate to verify.

A manifest is only as trustworthy as its folder. It shows that nothing was changed by accident, and
what the author of the adapter claims.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.chat_template.template_files import chat_template
from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MANIFEST,
    TOKENIZER_FILES,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import FACTORS, TensorKey, parse_key
from phi3_lora_qa.errors import AdapterError, escape

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What training recorded.

    Attributes:
        files: SHA-256 of each file that ships, by name.
        base_id: The id or name of the base that was requested.
        base_revision: The revision of the base, or "" if it has none.
        base_fingerprint: The hash of the base weights (see `base_fingerprint.fingerprint`), or "".
        scaling: The factor s in delta = s · B·A of each adapted module, by its name in the base.
        tokenizer_sha256: The hash of the tokenizer files; "" if there are none.
        chat_template_sha256: The hash of the chat template; "" if there is none.
        data_sha256: The hash of the training data, or "".
        seed: The seed of the training run.
        versions: The versions of the training libraries, by distribution name.
        final_losses: The final losses, by name ("train", "eval", …), in nats per token.
    """

    files: Mapping[str, str]
    base_id: str
    base_revision: str
    base_fingerprint: str
    scaling: Mapping[str, float]
    tokenizer_sha256: str
    chat_template_sha256: str
    data_sha256: str
    seed: int
    versions: Mapping[str, str]
    final_losses: Mapping[str, float]
    schema_version: int = SCHEMA_VERSION


def make_manifest(  # noqa: PLR0913 - the facts of one training run
    folder: AdapterFolder,
    *,
    base_id: str,
    base_revision: str = "",
    base_fingerprint: str = "",
    data_sha256: str = "",
    seed: int,
    versions: Mapping[str, str],
    final_losses: Mapping[str, float],
) -> Manifest:
    """Make the manifest of a finished folder: every other file must already be written.

    Raises:
        AdapterError: The folder's config or weights cannot be read.
    """
    return Manifest(
        files=folder.hashes(),
        base_id=base_id,
        base_revision=base_revision,
        base_fingerprint=base_fingerprint,
        scaling=scaling_table(folder),
        tokenizer_sha256=tokenizer_hash(folder),
        chat_template_sha256=template_hash(chat_template(folder)),
        data_sha256=data_sha256,
        seed=seed,
        versions=dict(versions),
        final_losses=dict(final_losses),
    )


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest into the folder atomically, and return its path."""
    from phi3_lora_qa.atomic_write import write_whole  # it loads OpenSSL; reading does not need it

    path = folder / MANIFEST
    content = json.dumps(asdict(manifest), indent=2, sort_keys=True, allow_nan=False)
    write_whole(path, f"{content}\n".encode())
    return path


def read_manifest(folder: AdapterFolder) -> Manifest | None:
    """Read a folder's manifest; None if it has none.

    Raises:
        AdapterError: The manifest is damaged or has a different schema version.
    """
    if MANIFEST not in folder.entries:
        return None
    raw = parse_object(
        folder.read_bytes(MANIFEST, MAX_MANIFEST_BYTES),
        where=MANIFEST,
        max_bytes=MAX_MANIFEST_BYTES,
    )
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise AdapterError(
            f"{MANIFEST} does not have schema version {SCHEMA_VERSION}",
            "write it again with this version of phi3-lora-qa, or remove it to check the adapter "
            "without a manifest",
        )
    wrong = [f.name for f in fields(Manifest) if not _has_type(raw.get(f.name), f.name)]
    if wrong or set(raw) != {f.name for f in fields(Manifest)}:
        invalid = wrong or sorted(set(raw) - {f.name for f in fields(Manifest)})
        raise AdapterError(
            f"{MANIFEST} has invalid fields: {escape(', '.join(invalid))}",
            "write it again, or remove it to check the adapter without a manifest",
        )
    return Manifest(**raw)


def scaling_table(folder: AdapterFolder) -> dict[str, float]:
    """Return the scaling of every module that has factors in the weights file."""
    file = open_safetensors(lambda: folder.open_file(WEIGHTS), WEIGHTS)
    keys = [key for key in map(parse_key, file.tensors) if isinstance(key, TensorKey)]
    matching = Matching(read_config(folder), ranks_in_file(keys, file.tensors))
    modules = sorted({key.module for key in keys if key.part in FACTORS})
    return {module: matching.scaling(module) for module in modules}


def tokenizer_hash(folder: AdapterFolder) -> str:
    """Return one SHA-256 over the names and contents of the tokenizer files, or ""."""
    import hashlib

    names = [name for name in TOKENIZER_FILES if folder.file(name)]
    lines = "".join(f"{folder.sha256(name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest() if names else ""


def template_hash(template: str | None) -> str:
    """Return the SHA-256 of a chat template, or "" if there is none."""
    import hashlib

    return hashlib.sha256(template.encode()).hexdigest() if template is not None else ""


def changed_files(folder: AdapterFolder, manifest: Manifest) -> tuple[str, ...]:
    """Return the files whose content differs from the recorded one, with missing and new files.

    A new file is not read: its name is enough to see that it was not recorded.
    """
    current = {
        name: _hash_or_empty(folder, name) if name in manifest.files else ""
        for name in folder.shipped
        if name != MANIFEST
    }
    names = {CONFIG, WEIGHTS, *current} | set(manifest.files)
    return tuple(sorted(name for name in names if current.get(name) != manifest.files.get(name)))


def _hash_or_empty(folder: AdapterFolder, name: str) -> str:
    """Return the hash of a file, or "" if the file cannot be read."""
    try:
        return folder.sha256(name)
    except AdapterError:
        return ""


def _has_type(value: Any, name: str) -> bool:
    if name in ("schema_version", "seed"):
        return type(value) is int
    if name in ("scaling", "final_losses"):
        return isinstance(value, dict) and all(map(_is_number, value.values()))
    if name in ("files", "versions"):
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Whether a value is a number in the range of a float; a JSON integer can exceed it."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
