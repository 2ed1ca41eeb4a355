"""Other libraries: which version is installed, and those parts of them that are not public.

A part that is not public may be renamed by any release. So it is asked for here, when it is first
used; where it is gone, the error names the library, its version and versions that work.
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

TRIED_FILE = "tried_versions.json"
"""A file of this package: of each library the lowest and the newest version that were tried."""


def is_older(library: str, than: str) -> bool:
    """Whether the installed version of a library comes before another; not if it is missing.

    Args:
        library: The name of the distribution, such as ``peft``.
        than: A version, such as ``0.21``.
    """
    from packaging.version import Version

    found = _installed(library)
    return found is not None and found < Version(than)


def part_of(library: str, module: str, name: str) -> Any:
    """Return a part of a library that its documentation does not promise.

    Args:
        library: The name of the distribution, such as ``peft``.
        module: The module's full name, such as ``peft.tuners.lora.layer``.
        name: The name in it, or of an attribute of it, such as ``SFTTrainer._save``.

    Raises:
        IncompatibleLibraryError: The installed version has no such part.
    """
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise incompatible(library, f"has no {module}.{name}") from error


def incompatible(library: str, fault: str) -> IncompatibleLibraryError:
    """Return the error that a library's version does not fit.

    Args:
        library: The name of the distribution.
        fault: What is wrong with it, such as ``has no part x``.
    """
    lowest, newest = _tried()[library]
    return IncompatibleLibraryError(
        f"{library} {version(library)} {fault}, which phi3-lora-qa uses; versions {lowest} and "
        f"{newest} were tried: pip install '{library}=={newest}'"
    )


@cache
def _installed(library: str) -> "Version | None":
    from packaging.version import Version

    try:
        return Version(version(library))
    except PackageNotFoundError:
        return None


@cache
def _tried() -> dict[str, tuple[str, str]]:
    raw = json.loads((files("phi3_lora_qa") / TRIED_FILE).read_text(encoding="utf-8"))
    return {library: (found["lowest"], found["newest"]) for library, found in raw.items()}
