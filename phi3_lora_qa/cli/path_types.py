"""What a path on the command line may be."""

from pathlib import Path
from typing import Any

import click

from phi3_lora_qa.errors import InputError


class _GivenPath(click.Path):
    """A path with something in it: of an empty variable of the shell, Python makes this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty path.

        Raises:
            InputError: It is empty.
        """
        if not str(value):
            raise InputError(f"the path of {_name(param)} is empty; give one")
        return super().convert(value, param, ctx)


def _name(param: click.Parameter | None) -> str:
    return "an argument" if param is None else param.opts[-1]


PATH = _GivenPath(path_type=Path)
