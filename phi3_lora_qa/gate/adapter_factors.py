"""The adapter's factors from its files: float64, with each module's own scaling."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile, open_safetensors
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import Part, parse_keys
from phi3_lora_qa.lora import Array, Factors, block_diagonal


def open_weights(folder: AdapterFolder) -> SafetensorsFile:
    """Open the adapter's weights.

    Raises:
        AdapterError: They are damaged.
    """
    return open_safetensors(lambda: folder.open_file(WEIGHTS), WEIGHTS)


def read_factors(folder: AdapterFolder, *, stored: bool = False) -> Mapping[str, Factors]:
    """Return the factors of every adapted module, by the module's path in the base.

    An embedding is read as the linear layer of its transposed table (dim, rows): its
    lora_embedding_A (r, rows) and lora_embedding_B (dim, r) are A and B of that layer. Modules that
    are saved whole are left out.

    Args:
        folder: The adapter.
        stored: Whether to return factors in the file's layout, with block-diagonal ones stacked,
            and in the file's float32 or float64. Otherwise they are float64 matrices.

    Raises:
        AdapterError: The config or the weights cannot be read.
    """
    config = read_config(folder)
    weights = open_weights(folder)
    keys, _ = parse_keys(weights.tensors)
    matching = Matching(config, ranks_in_file(keys.values(), weights.tensors))
    parts = {(key.module, key.part): key.name for key in keys.values()}

    def read(module: str, part: Part) -> Array | None:
        name = parts.get((module, part))
        if name is None:
            return None
        values: Any = weights.tensor(name)
        return values if stored else values.astype(np.float64)

    factors = {}
    for module in dict.fromkeys(module for module, _ in parts):
        for first, second in ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B)):
            a, b = read(module, first), read(module, second)
            if a is None or b is None:
                continue
            if (split := config.use_bdlora) and not stored:
                a = block_diagonal(a, split.blocks) if split.splits_a(module) else a
                b = block_diagonal(b, split.blocks) if split.splits_b(module) else b
            magnitude = read(module, Part.MAGNITUDE)
            factors[module] = Factors(
                A=a,
                B=b,
                scaling=matching.scaling(module),
                magnitude=None if magnitude is None else magnitude.reshape(-1),
                bias=read(module, Part.B_BIAS),
            )
    return factors
