"""The adapter's factors as its files state them: float64, with each module's own scaling."""

from collections.abc import Mapping

import numpy as np

from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.keys import Part, parse_keys
from phi3_lora_qa.adapter.matching import scaling
from phi3_lora_qa.adapter.safetensors import SafetensorsFile, open_safetensors
from phi3_lora_qa.lora.reference import Factors


def weights_of(folder: AdapterFolder) -> SafetensorsFile:
    """Open the adapter's weights; raises AdapterError where they are damaged."""
    return open_safetensors(lambda: folder.open_file(WEIGHTS), WEIGHTS)


def read_factors(folder: AdapterFolder) -> Mapping[str, Factors]:
    """Return the factors of every linear module, by the module's path in the base.

    Embeddings and modules that are saved whole are not among them.

    Raises:
        AdapterError: The config or the weights cannot be read.
    """
    config = read_config(folder)
    weights = weights_of(folder)
    keys, _ = parse_keys(weights.tensors)
    parts = {(key.module, key.part): key.name for key in keys.values()}
    factors = {}
    for module, part in parts:
        if part is not Part.A or (module, Part.B) not in parts:
            continue
        magnitude = parts.get((module, Part.MAGNITUDE))
        factors[module] = Factors(
            A=weights.tensor(parts[module, Part.A]).astype(np.float64),
            B=weights.tensor(parts[module, Part.B]).astype(np.float64),
            scaling=scaling(config, module),
            magnitude=weights.tensor(magnitude).astype(np.float64).reshape(-1)
            if magnitude
            else None,
        )
    return factors
