"""The adapter that another one was trained from: its stored tensors, and what training changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from phi3_lora_qa.adapter.config import parse_config, read_raw_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile, open_safetensors
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import TRAINED, Part, TensorKey, parse_keys
from phi3_lora_qa.errors import AdapterError, InputError, escape, shortage

_COMPARED = (*TRAINED, Part.WEIGHT, Part.BIAS)

Scaling = Callable[[str], float]
"""Returns the scaling s of a module's delta s · B·A."""


class Change(StrEnum):
    """What training did to one module, judging by its tensors."""

    NONE = "equal to the bit"
    ROUNDED = "equal apart from rounding"
    REWRITTEN = "the same delta from other factors"
    CHANGED = "changed"
    ADDED = "not in the parent"


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """The weights of an adapter folder, by the canonical names of its tensors.

    ``scaling`` is None if the config cannot be read; the deltas are then not compared.
    """

    weights: SafetensorsFile
    keys: Mapping[str, TensorKey]
    scaling: Scaling | None

    def parts(self) -> dict[str, dict[Part, str]]:
        """Return the names in the file of the trained tensors, by module and part."""
        found: dict[str, dict[Part, str]] = {}
        for key in self.keys.values():
            if key.part in _COMPARED:
                found.setdefault(key.module, {})[key.part] = key.name
        return found


def open_parent(folder: AdapterFolder) -> StoredAdapter:
    """Open the weights of a parent.

    Raises:
        InputError: Its weights cannot be read.
    """
    try:
        weights = open_safetensors(partial(folder.open_file, WEIGHTS), WEIGHTS)
    except AdapterError as error:
        if short := shortage(error):
            raise short from error
        raise InputError(
            f"cannot read the parent {escape(str(folder.path))}: {escape(error.what)}; pass the "
            f"folder of the adapter that this one was trained from, with its {WEIGHTS}"
        ) from error
    try:
        config = parse_config(read_raw_config(folder)).config
        scaling = Matching(config).scaling if config else None
    except AdapterError as error:
        if short := shortage(error):
            raise short from error
        scaling = None
    return StoredAdapter(weights=weights, keys=parse_keys(weights.tensors)[0], scaling=scaling)
