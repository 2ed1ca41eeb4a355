"""The known bases and where they are on this machine; finds a base without loading torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phi3_lora_qa.adapter.architecture import architecture_of
from phi3_lora_qa.adapter.base_checks.base_foreign_files import require_own_files
from phi3_lora_qa.adapter.base_files import BaseFiles, unknown_architecture
from phi3_lora_qa.adapter.phi_family import is_phi
from phi3_lora_qa.adapter.phi_models import PHI_MODELS, ChatFormat
from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.extras import is_installed
from phi3_lora_qa.models import smollm2
from phi3_lora_qa.models.paths import bundled, cache_folder, hub_cache
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
    "require_phi",
    "require_phi_files",
    "resolve_base",
]

CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_REVISION_BYTES = 200
_GENERAL_SUITE, _GENERAL_THRESHOLDS = "general/suite.jsonl", "general/thresholds.toml"


@dataclass(frozen=True, kw_only=True)
class BaseRef:
    """A base that was found; ``folder`` is None if a hub id is not on this machine."""

    id: str
    folder: Path | None
    name: str


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A trusted base that has a name, so that no path is needed.

    ``source`` says how it is obtained: it ships with the package, is built from a package of the
    package index, or is downloaded from the Hugging Face hub. ``suite`` and ``thresholds`` are its
    bundled suite and the limits for that suite, as names for :func:`bundled`. ``chat`` is the
    published chat format of a model on the hub.
    """

    name: str
    id: str
    source: Literal["bundled", "built", "hub"]
    license: str
    about: str
    chat: ChatFormat | None = None
    suite: str = _GENERAL_SUITE
    thresholds: str = _GENERAL_THRESHOLDS


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
    *(
        KnownBase(
            name=phi.name, id=phi.id, source="hub", license="MIT", about=phi.about, chat=phi.chat
        )
        for phi in PHI_MODELS
    ),
)


def known_bases() -> tuple[KnownBase, ...]:
    """Return all known bases, those that need no network first."""
    return _KNOWN


def find_known(reference: str) -> KnownBase | None:
    """Return the known base with this name or id, or None."""
    return next((known for known in _KNOWN if reference in (known.name, known.id)), None)


def find_folder(known: KnownBase) -> Path | None:
    """Return the folder of a known base on this machine, or None; does not use the network."""
    match known.source:
        case "bundled":
            return bundled(f"{known.name}/base")
        case "built":
            return smollm2.installed()
        case "hub":
            return _hub_snapshot(known.id)


def resolve_base(reference: str, start: Path | None = None) -> BaseRef:
    """Find the base that a reference names.

    A known name or id takes precedence over a folder of the same name, so that a folder cannot
    replace a trusted base; write ``./tiny`` for a folder called ``tiny``.

    Args:
        reference: A known name, a known hub id, or a folder with a ``config.json``.
        start: The folder that a relative path starts from; None for the current directory.

    Raises:
        BaseModelError: The reference is unknown, or the base must be fetched first.
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
    """Return the bundled suite file for a base; an unknown base gets the general one."""
    known = find_known(ref.id)
    return bundled(known.suite if known else _GENERAL_SUITE)


def bundled_thresholds(ref: BaseRef) -> Path:
    """Return the bundled limits for a base's suite."""
    known = find_known(ref.id)
    return bundled(known.thresholds if known else _GENERAL_THRESHOLDS)


def base_fingerprint(ref: BaseRef) -> str:
    """Return the identity of a base's files; empty if its weights are not on this machine.

    Raises:
        BaseModelError: A file of the base cannot be read.
    """
    known = find_known(ref.id)
    folder = ref.folder or (find_folder(known) if known else None)
    return BaseFiles.open(folder).fingerprint if folder else ""


def read_base_config(ref: BaseRef) -> Mapping[str, object]:
    """Read a base's ``config.json``; nothing that it names is imported or followed.

    Returns:
        The whole object, or an empty mapping while a hub id is not on this machine.

    Raises:
        BaseModelError: The file cannot be read, is not a JSON object, or its architecture is not
            in the table.
    """
    if ref.folder is None:
        return {}
    require_own_files(ref.folder)
    path = ref.folder / CONFIG_FILE
    try:
        config = json.loads(read_text(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(
            f"cannot read {path}: {escape(str(error))}; pass the folder of a Phi-3 model"
        ) from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} is not a JSON object; pass the folder of a Phi-3 model")
    if architecture_of(config) is None:
        raise BaseModelError(unknown_architecture(str(path), config))
    return config


def require_phi(ref: BaseRef, option: str = "") -> None:
    """Raise unless a base is a Phi-3, in its own layout or in Llama's.

    Args:
        ref: The base. A known base, or a hub id that is not on this machine, is not opened.
        option: The option with which the user accepts other models; empty if there is none.

    Raises:
        BaseModelError: It is another model.
    """
    if ref.folder is None or find_known(ref.id):
        return
    require_phi_files(BaseFiles.open(ref.folder, id=ref.id), option)


def require_phi_files(base: BaseFiles, option: str = "") -> None:
    """Raise BaseModelError unless opened files are those of a Phi-3, as `require_phi` does."""
    if not is_phi(base.config, base.public_id, base):
        what = base.architecture.name
        raise BaseModelError(
            f"{escape(base.id or str(base.path), 300)} is not a Phi-3: it is a {what}; pass a "
            f"Phi-3{f', or accept this base with {option}' if option else ''}"
        )


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
            f"the base '{shown}' is neither a known name nor an existing folder; pass {_choices()}"
        )
    if not is_folder:
        raise BaseModelError(
            f"the base '{shown}' is a file, not a folder; pass the folder of the model"
        )
    if not has_config:
        raise BaseModelError(
            f"the folder '{shown}' has no {CONFIG_FILE}; pass the folder of a Phi-3 model"
        )
    for known in _KNOWN:
        if known.source != "hub" and _is_in(known, folder):
            return BaseRef(id=known.id, folder=folder, name=known.name)
    return BaseRef(id=str(folder), folder=folder, name=folder.name)


def _is_in(known: KnownBase, folder: Path) -> bool:
    try:
        return find_folder(known) == folder
    except ValueError:  # this installation lacks the bundled base
        return False


def _choices() -> str:
    names = ", ".join(known.name for known in _KNOWN)
    return f"one of {names}, the hub id of one of these, or the folder of a Phi-3 model"


def _hub_snapshot(identifier: str) -> Path | None:
    if is_installed("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(identifier, CONFIG_FILE)
        return Path(path).parent if isinstance(path, str) else None
    repository = hub_cache() / f"models--{identifier.replace('/', '--')}"
    try:
        revision = read_text(repository / "refs" / "main", _MAX_REVISION_BYTES)
        folder = repository / "snapshots" / revision
        return folder if (folder / CONFIG_FILE).is_file() else None
    except (OSError, ValueError):  # it was never downloaded
        return None
