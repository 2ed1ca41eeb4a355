"""The installed versions of other libraries, and their private parts.

Any release may rename a private part. So it is looked up here, on first use; if it is missing, the
error names the library, its version, and versions that work.
"""

import json
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import IncompatibleLibraryError

if TYPE_CHECKING:
    from packaging.version import Version

TESTED_FILE = "tested_versions.json"
"""A file of this package: the lowest and the newest version of each library that were tested."""


def is_older(library: str, than: str) -> bool:
    """Return whether the installed version of a library is older than another; False if missing.

    Args:
        library: The name of the distribution, such as ``peft``.
        than: A version, such as ``0.21``.
    """
    from packaging.version import Version

    installed = _installed(library)
    return installed is not None and installed < Version(than)


def part_of(library: str, module: str, name: str) -> Any:
    """Return a private part of a library.

    Args:
        library: The name of the distribution, such as ``peft``.
        module: The module's full name, such as ``peft.tuners.lora.layer``.
        name: The name in the module, or of an attribute, such as ``SFTTrainer._save``.

    Raises:
        IncompatibleLibraryError: The installed version lacks it.
    """
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise incompatible(library, f"has no {module}.{name}") from error


def incompatible(library: str, fault: str) -> IncompatibleLibraryError:
    """Return the error for an unsupported version of a library.

    Args:
        library: The name of the distribution.
        fault: What is wrong, as a predicate, such as ``has no x``.
    """
    lowest, newest = _tested()[library]
    return IncompatibleLibraryError(
        f"{library} {version(library)} {fault}, which phi3-lora-qa uses; versions {lowest} and "
        f"{newest} were tested: pip install '{library}=={newest}'"
    )


@cache
def _installed(library: str) -> "Version | None":
    from packaging.version import Version

    try:
        return Version(version(library))
    except PackageNotFoundError:
        return None


@cache
def _tested() -> dict[str, tuple[str, str]]:
    raw = json.loads((files("phi3_lora_qa") / TESTED_FILE).read_text(encoding="utf-8"))
    return {library: (own["lowest"], own["newest"]) for library, own in raw.items()}
