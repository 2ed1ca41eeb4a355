"""Where files are: the data that ships with the package, and the cache of built bases."""

import os
from pathlib import Path

from platformdirs import user_cache_dir

from phi3_lora_qa.errors import InputError, escape

CACHE_VARIABLE = "PHI3_LORA_QA_CACHE"

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path:
    """Return a file or folder that ships with the package.

    Args:
        name: Its path in the bundle, such as ``tiny/suite.jsonl``.

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


def hub_cache() -> Path:
    """Return the folder in which the hub's client keeps what it downloaded.

    The client finds it by the same variables; looking there does not need it to be installed.
    """
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    hub = os.environ.get("HF_HOME", f"{home}/huggingface")
    cache = os.environ.get("HUGGINGFACE_HUB_CACHE", f"{hub}/hub")
    chosen = os.path.expandvars(os.environ.get("HF_HUB_CACHE", cache))
    return Path(os.path.expanduser(chosen))  # noqa: PTH111 - it leaves an unknown user as it is


def cache_folder() -> Path:
    """Return the folder of built bases: ``PHI3_LORA_QA_CACHE``, or else the user's cache folder.

    Raises:
        InputError: The variable starts with the home folder of an unknown user.
    """
    override = os.environ.get(CACHE_VARIABLE)
    path = os.path.expanduser(override or user_cache_dir("phi3-lora-qa"))  # noqa: PTH111
    if path.startswith("~"):
        raise InputError(
            f"{CACHE_VARIABLE} names an unknown user: {escape(path, 200)}; "
            "set it to a folder of your own"
        )
    return Path(os.path.realpath(path))
