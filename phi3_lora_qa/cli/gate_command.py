"""The command that gates an adapter, as other commands print it when they have written one."""

import shlex
from pathlib import Path

from phi3_lora_qa.errors import escape


def gate_command(adapter: Path, base: str, *, configured: str) -> str:
    """Return the command that gates an adapter.

    It names the base unless the gate finds it by the adapter's config, which may only select a
    known base. An option and its value are one word, so that pytest does not take the value for
    the path of a test.

    Args:
        adapter: The adapter folder.
        base: The id of its base; that of a folder is its path.
        configured: The base that the adapter's config names; empty if it names none.

    Example:
        >>> gate_command(Path("out"), "tiny", configured="tiny")
        'pytest --phi3-adapter=out'
        >>> gate_command(Path("out"), "/models/phi", configured="")
        'pytest --phi3-adapter=out --phi3-base=/models/phi'
    """
    from phi3_lora_qa.models.registry import find_known

    words = ["pytest", f"--phi3-adapter={adapter}"]
    if find_known(base) is None or configured != base:
        words.append(f"--phi3-base={base}")
    return escape(shlex.join(words), 3_000)
