"""What a weights file says about the config: which modules have factors, and of which rank."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from phi3_lora_qa.adapter.tensor_names import Part, TensorKey


class HasShape(Protocol):
    """A tensor, or its entry in a file's header."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""


def ranks_in_file(keys: Iterable[TensorKey], tensors: Mapping[str, HasShape]) -> Mapping[str, int]:
    """Return the rank of each module that has a factor A in the file.

    Args:
        keys: The valid names in the file.
        tensors: The file's tensors by name.
    """
    firsts = [key for key in keys if key.part in (Part.A, Part.EMBEDDING_A)]
    shapes = {key.module: tensors[key.name].shape for key in firsts}
    return {module: shape[0] for module, shape in shapes.items() if shape}
