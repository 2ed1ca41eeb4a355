"""Which bases are known and where they lie on this machine; finds a base without loading torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models import smollm2
from phi3_lora_qa.models.paths import bundled, cache_folder
from phi3_lora_qa.reading import read_text

__all__ = [
    "BaseRef",
    "KnownBase",
    "base_fingerprint",
    "bundled",
    "bundled_suite",
    "bundled_thresholds",
    "cache_folder",
    "find_folder",
    "find_known",
    "known_bases",
    "read_base_config",
    "resolve_base",
]

CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 1 << 20
_GENERAL_SUITE, _GENERAL_THRESHOLDS = "general/suite.jsonl", "general/thresholds.toml"


@dataclass(frozen=True, kw_only=True)
class BaseRef:
    """A base that was found: ``folder`` is None while a hub id is not on this machine."""

    id: str
    folder: Path | None
    name: str


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A base that can be named instead of pointed at; what is known is trusted.

    ``source`` says how it comes here: it ships with the package, is built from a package of the
    package index, or is downloaded from the Hugging Face hub. ``suite`` is the bundled suite that
    suits it, as a name for :func:`bundled`; ``thresholds`` are the limits that belong to it.
    """

    name: str
    id: str
    source: Literal["bundled", "built", "hub"]
    license: str
    about: str
    suite: str = _GENERAL_SUITE
    thresholds: str = _GENERAL_THRESHOLDS


def _microsoft(name: str, model: str, about: str) -> KnownBase:
    return KnownBase(name=name, id=f"microsoft/{model}", source="hub", license="MIT", about=about)


_KNOWN = (
    KnownBase(
        name="tiny",
        id="tiny",
        source="bundled",
        license="Apache-2.0",
        about="a small trained Phi-3 that ships with the package",
        suite="tiny/suite.jsonl",
        thresholds="tiny/thresholds.toml",
    ),
    KnownBase(
        name=smollm2.NAME,
        id=smollm2.NAME,
        source="built",
        license="Apache-2.0",
        about="SmolLM2-135M-Instruct in Phi-3's layout, from the package index",
    ),
    _microsoft("phi3-mini-4k", "Phi-3-mini-4k-instruct", "3.8 billion parameters"),
    _microsoft("phi3-mini-128k", "Phi-3-mini-128k-instruct", "3.8 billion, long context"),
    _microsoft("phi3.5-mini", "Phi-3.5-mini-instruct", "3.8 billion, long context"),
    _microsoft("phi3-medium-4k", "Phi-3-medium-4k-instruct", "14 billion parameters"),
    _microsoft("phi3-medium-128k", "Phi-3-medium-128k-instruct", "14 billion, long context"),
)


def known_bases() -> tuple[KnownBase, ...]:
    """Return every known base, the ones that need no network first."""
    return _KNOWN


def find_known(reference: str) -> KnownBase | None:
    """Return the known base with this name or id, or None."""
    return next((known for known in _KNOWN if reference in (known.name, known.id)), None)


def find_folder(known: KnownBase) -> Path | None:
    """Return where a known base lies on this machine, or None; never touches the network."""
    match known.source:
        case "bundled":
            return bundled(f"{known.name}/base")
        case "built":
            return smollm2.installed()
        case "hub":
            return _hub_snapshot(known.id)


def resolve_base(reference: str, start: Path | None = None) -> BaseRef:
    """Find the base that a reference means.

    A known name or id goes before a folder of the same name, so that a file tree cannot put
    itself in the place of a trusted base; write ``./tiny`` for a folder called ``tiny``.

    Args:
        reference: A known name, a known hub id, or a folder that holds a ``config.json``.
        start: Where a relative path starts; the current directory where it is None.

    Raises:
        BaseModelError: The reference means nothing, or the base has to be fetched first.
    """
    known = find_known(reference)
    if known is None:
        return _resolve_folder(reference, start or Path())
    folder = find_folder(known)
    if folder is None and known.source == "built":
        raise BaseModelError(
            f"the base {known.name} is not on this machine; "
            f"run: phi3-lora-qa base fetch {known.name}"
        )
    return BaseRef(id=known.id, folder=folder, name=known.name)


def bundled_suite(ref: BaseRef) -> Path:
    """Return the suite file that ships for this base; an unknown base gets the general one."""
    known = find_known(ref.id)
    return bundled(known.suite if known else _GENERAL_SUITE)


def bundled_thresholds(ref: BaseRef) -> Path:
    """Return the limits that ship with this base's suite."""
    known = find_known(ref.id)
    return bundled(known.thresholds if known else _GENERAL_THRESHOLDS)


def base_fingerprint(ref: BaseRef) -> str:
    """Return the identity of a base's files; empty where its weights are not on this machine.

    Raises:
        BaseModelError: A file of the base cannot be read.
    """
    from phi3_lora_qa.adapter.base_files import BaseFiles

    known = find_known(ref.id)
    folder = ref.folder or (find_folder(known) if known else None)
    return BaseFiles.open(folder).fingerprint if folder else ""


def read_base_config(ref: BaseRef) -> Mapping[str, object]:
    """Read a base's ``config.json``; nothing that it names is imported or followed.

    Returns:
        The whole object, or an empty mapping while a hub id is not on this machine.

    Raises:
        BaseModelError: The file cannot be read, is no JSON object, or is no Phi-3's.
    """
    if ref.folder is None:
        return {}
    path = ref.folder / CONFIG_FILE
    try:
        config = json.loads(read_text(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(
            f"cannot read {path}: {escape(str(error))}; give the folder of a Phi-3 model"
        ) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} holds no JSON object; give the folder of a Phi-3 model")
    if config.get("model_type") != "phi3":
        raise BaseModelError(
            f"{path} describes a model of type {escape(repr(config.get('model_type')), 60)}, "
            f"not 'phi3'; give a Phi-3 base: {_choices()}"
        )
    return config


def _resolve_folder(reference: str, start: Path) -> BaseRef:
    try:
        folder = (start / Path(reference).expanduser()).resolve()
        is_folder, exists = folder.is_dir(), folder.exists()
        has_config = is_folder and (folder / CONFIG_FILE).is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop, or an unknown ~user
        is_folder = exists = has_config = False
    shown = escape(reference, 200)
    if not reference or not exists:
        raise BaseModelError(
            f"the base '{shown}' is neither known nor a folder here; give {_choices()}"
        )
    if not is_folder:
        raise BaseModelError(f"the base '{shown}' is a file; give the folder that holds the model")
    if not has_config:
        raise BaseModelError(
            f"the folder '{shown}' holds no {CONFIG_FILE}; give the folder of a Phi-3 model"
        )
    for known in _KNOWN:
        if known.source != "hub" and _lies_at(known, folder):
            return BaseRef(id=known.id, folder=folder, name=known.name)
    return BaseRef(id=str(folder), folder=folder, name=folder.name)


def _lies_at(known: KnownBase, folder: Path) -> bool:
    try:
        return find_folder(known) == folder
    except ValueError:  # a bundled base that this installation lacks
        return False


def _choices() -> str:
    names = ", ".join(known.name for known in _KNOWN)
    return f"one of {names}, the hub id of one of these, or the folder of a Phi-3 model"


def _hub_snapshot(identifier: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(identifier, CONFIG_FILE)
    return Path(path).parent if isinstance(path, str) else None
