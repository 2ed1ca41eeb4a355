"""Where files lie: data that ships with the package, and the cache of what was built from it."""

import os
from pathlib import Path

from platformdirs import user_cache_dir

from phi3_lora_qa.errors import InputError, escape

CACHE_VARIABLE = "PHI3_LORA_QA_CACHE"

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path:
    """Return a file or folder that ships with the package.

    Args:
        name: Its path below the bundle, such as ``tiny/suite.jsonl``.

    Returns:
        The path in ``phi3_lora_qa/bundled``.

    Raises:
        InputError: It is missing from this installation.
    """
    path = _PACKAGE / "bundled" / name
    if path.exists():
        return path
    raise InputError(
        f"the bundled {name} is missing from this installation; reinstall phi3-lora-qa"
    )


def cache_folder() -> Path:
    """Return the folder of built bases: ``PHI3_LORA_QA_CACHE``, else the user's cache folder.

    Raises:
        InputError: The variable names the home of a user that this machine does not know.
    """
    override = os.environ.get(CACHE_VARIABLE)
    place = os.path.expanduser(override or user_cache_dir("phi3-lora-qa"))  # noqa: PTH111
    if place.startswith("~"):
        raise InputError(
            f"{CACHE_VARIABLE} is {escape(place, 200)}, and there is no such user; "
            "give a folder of your own"
        )
    return Path(os.path.realpath(place))
