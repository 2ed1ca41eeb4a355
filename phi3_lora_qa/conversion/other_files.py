"""Copies what an adapter's folder ships next to its factors into the converted folder."""

import shutil
from pathlib import Path

from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, MODEL_CARD, AdapterFolder

_REPLACED = (CONFIG, MANIFEST, MODEL_CARD)
"""Files that describe the factors as they were; a manifest has the hashes of the old files."""

_WEIGHTS = (".safetensors", ".safetensors.index.json")


def copy_other_files(source: AdapterFolder, folder: Path) -> None:
    """Copy the tokenizer, the chat templates, the training log and everything else that ships.

    Config, weights, manifest and model card are left out, because they describe the adapter before
    the conversion. Pickles and programs are not copied either.

    Args:
        source: The folder that was converted.
        folder: The converted folder.

    Raises:
        AdapterError: A file cannot be read, or changed.
    """
    for name in source.shipped:
        entry = source.file(name)
        if name in _REPLACED or name.endswith(_WEIGHTS) or entry is None or entry.is_code:
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        with source.open_file(name) as content, (folder / name).open("wb") as copy:
            shutil.copyfileobj(content, copy)
