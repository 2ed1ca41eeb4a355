"""Decides whether a folder is a LoRA adapter of PEFT, and if not, what else it is."""

from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.identity.foreign_format import ForeignFormat
from phi3_lora_qa.adapter.identity.format_by_config import format_by_config, is_peft_lora
from phi3_lora_qa.adapter.identity.format_by_files import format_by_files
from phi3_lora_qa.adapter.identity.format_by_tensors import format_by_tensors
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.errors import AdapterError, shortage

_MAX_FILES = 4
"""The most files without a known name whose header is read."""


def recognize_format(
    folder: AdapterFolder, config: Mapping[str, Any] | None, tensors: tuple[str, ...]
) -> ForeignFormat | None:
    """Return what the folder is; None if it is, or may be, a LoRA adapter of PEFT.

    Args:
        folder: The folder.
        config: The content of adapter_config.json; None if it is missing or unreadable.
        tensors: The names in adapter_model.safetensors; empty if it is missing or unreadable.
    """
    is_peft = is_peft_lora(config)
    by_config = format_by_config(config) if config is not None else None
    if by_config is not None:
        return by_config
    if tensors:
        return format_by_tensors(tensors, WEIGHTS, is_peft=is_peft)
    found = format_by_files(tuple(folder.entries), is_peft=is_peft)
    if found is not None or CONFIG in folder.entries or WEIGHTS in folder.entries:
        return found
    return _by_other_weights(folder)


def _by_other_weights(folder: AdapterFolder) -> ForeignFormat | None:
    """Look into safetensors files of other names, in a folder without PEFT's files."""
    names = [name for name in folder.entries if name.endswith(".safetensors") and folder.file(name)]
    for name in names[:_MAX_FILES]:
        try:
            file = open_safetensors(lambda name=name: folder.open_file(name), name)  # type: ignore[misc]
        except AdapterError as error:
            if short := shortage(error):
                raise short from error
            continue
        if found := format_by_tensors(tuple(file.tensors), name, is_peft=False):
            return found
    return None
