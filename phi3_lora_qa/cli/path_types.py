"""The click parameter type for paths on the command line."""

from pathlib import Path
from typing import Any

import click

from phi3_lora_qa.errors import InputError


class _NonEmptyPath(click.Path):
    """A path that is not empty: pathlib reads "", an unset variable, as the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reject an empty path.

        Raises:
            InputError: The path is empty.
        """
        if not str(value):
            raise InputError(f"the path of {_name(param)} is empty; pass a path")
        return super().convert(value, param, ctx)


def _name(param: click.Parameter | None) -> str:
    return "an argument" if param is None else param.opts[-1]


PATH = _NonEmptyPath(path_type=Path)
