"""Finds the files of an adapter folder that are not what their names say."""

from collections.abc import Mapping

from phi3_lora_qa.adapter.file_kind import FileKind, foreign_kind
from phi3_lora_qa.adapter.folder import (
    MANIFEST,
    OTHER_VOCABULARIES,
    PICKLED_WEIGHTS,
    TOKENIZER_FILES,
    WEIGHTS,
    AdapterFolder,
    is_loaded,
)
from phi3_lora_qa.errors import AdapterError, shortage


def foreign_files(folder: AdapterFolder) -> Mapping[str, FileKind]:
    """Return what each file is whose name promises something else, of those that programs read.

    Args:
        folder: The adapter folder. A pickle is only recognised, not opened.

    Returns:
        The kinds by the file's name. A file that cannot be read is left out: the rule that reads
        it reports it.

    Raises:
        MachineError: The machine ran out of file handles or the like.
    """
    names = [name for name in folder.entries if is_loaded(name) or name == MANIFEST]
    if WEIGHTS not in folder.entries:
        names.append(PICKLED_WEIGHTS)
    found = {}
    for name in filter(folder.file, names):
        try:
            kind = foreign_kind(name, folder.read_head(name))
        except (AdapterError, OSError) as error:
            if short := shortage(error):
                raise short from error
            continue
        if kind is not None:
            found[name] = kind
    return found


def of_tokenizer(folder: AdapterFolder, found: Mapping[str, FileKind]) -> Mapping[str, FileKind]:
    """Return those of some files that belong to the folder's tokenizer, with their kinds."""
    names = {*TOKENIZER_FILES, *OTHER_VOCABULARIES, *folder.templates}
    return {name: kind for name, kind in found.items() if name in names}
