"""Finds weights that were saved in several files, which peft does not load.

transformers' ``save_pretrained`` splits an adapter that is larger than ``max_shard_size`` into
``adapter_model-00001-of-00002.safetensors`` and so on, and writes an index. peft 0.21.2
(utils/save_and_load.py, load_peft_weights) and transformers' ``load_adapter`` only read
``adapter_model.safetensors`` or ``adapter_model.bin``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from phi3_lora_qa.adapter.folder import WEIGHTS

INDEXES = (f"{WEIGHTS}.index.json", "model.safetensors.index.json")
"""The names of the index: peft's own style, and what transformers 5.23 writes for an adapter."""

_SHARD = re.compile(r"adapter_model-(\d{1,6})-of-(\d{1,6})(\.safetensors|\.bin)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class WeightShards:
    """The files of one set of weights.

    Attributes:
        names: Those in the folder, in order.
        total: The number of files that belong to the set, according to their names.
        is_pickle: Whether they are pickles.
    """

    names: tuple[str, ...]
    total: int
    is_pickle: bool

    @property
    def missing(self) -> int:
        """The number of files that are not in the folder."""
        return max(0, self.total - len(self.names))


def find_shards(names: Iterable[str]) -> WeightShards | None:
    """Return the shards among the files of a folder; the largest set if there are several.

    Args:
        names: The names of the regular files in the folder.
    """
    sets: dict[tuple[int, str], dict[int, str]] = {}
    for name in names:
        if found := _SHARD.fullmatch(name):
            number, total = int(found[1]), int(found[2])
            if 1 <= number <= total:
                sets.setdefault((total, found[3]), {})[number] = name
    if not sets:
        return None
    (total, suffix), shards = max(sets.items(), key=lambda entry: (len(entry[1]), entry[0][1]))
    ordered = tuple(shards[number] for number in sorted(shards))
    return WeightShards(names=ordered, total=total, is_pickle=suffix == ".bin")
