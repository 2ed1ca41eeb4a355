"""Reads a TOML file that a user passed."""

import tomllib
from pathlib import Path
from typing import Any

from phi3_lora_qa.errors import InputError, escape, reason_of
from phi3_lora_qa.reading import read_text

MOST_BYTES = 4 << 20


def read_toml(
    path: Path, what: str, form: str = "a TOML file", error: type[InputError] = InputError
) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: The file; a byte order mark at its start is skipped.
        what: What the file is, such as ``the thresholds``, for the message.
        form: What the user should pass, for the message.
        error: The kind of error to raise.

    Raises:
        InputError: The file is missing, too large, not UTF-8, not TOML, or nested too deeply.
    """
    try:
        return tomllib.loads(read_text(path, MOST_BYTES, "utf-8-sig"))
    except (OSError, ValueError, RecursionError) as caught:  # bad UTF-8 and TOML: ValueError
        shown = f"{what} {escape(str(path))}"
        raise error(f"cannot read {shown}: {reason_of(caught)}; pass {form}") from caught
