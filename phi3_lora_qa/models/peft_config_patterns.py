"""Replace patterns that may run forever in PEFT by the names of the modules that they select."""

from contextlib import suppress
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.config import parse_config, read_raw_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import parse_keys
from phi3_lora_qa.errors import AdapterError

if TYPE_CHECKING:
    from peft import LoraConfig


def has_unmatched_patterns(folder: AdapterFolder) -> bool:
    """Whether a pattern of the config can only be matched by Python's `re`."""
    matching = _matching(folder)
    return matching is not None and bool(matching.unmatched)


def replace_unmatched_patterns(config: "LoraConfig", folder: AdapterFolder) -> None:
    """Put names from the weights file in the place of patterns that only Python's `re` can match.

    PEFT passes every pattern to `re`, which may take years. The file has factors for the modules
    that the pattern selected in training.

    Args:
        config: The adapter's config as PEFT read it; it is changed.
        folder: The adapter.

    Raises:
        AdapterError: The weights cannot be read, or a pattern is invalid.
    """
    matching = _matching(folder)
    if matching is None or not matching.unmatched:
        return
    ranks = matching.in_file
    config.target_modules = [name for name in ranks if not matching.targets_weight(name)]
    config.exclude_modules = None
    config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = {name: rank for name, rank in ranks.items() if rank != config.r}


def _matching(folder: AdapterFolder) -> Matching | None:
    """Return the compiled patterns; None if the config cannot be read, which PEFT reports."""
    own = parse_config(read_raw_config(folder)).config
    if own is None:
        return None
    with suppress(AdapterError):
        return Matching(own)  # every pattern can be matched without the weights file
    weights = open_safetensors(lambda: folder.open_file(WEIGHTS), WEIGHTS)
    keys, _ = parse_keys(weights.tensors)
    return Matching(own, ranks_in_file(keys.values(), weights.tensors))
