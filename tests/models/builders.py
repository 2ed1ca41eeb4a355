"""Folders of bases that several test modules write."""

import json
from dataclasses import asdict
from pathlib import Path

from phi3_lora_qa.models import smollm2


def write_smollm2(cache: Path, **changes: object) -> Path:
    """Write a folder that counts as an installed smollm2, but for changes to its provenance."""
    folder = cache / smollm2.NAME
    folder.mkdir(parents=True)
    (folder / smollm2.WEIGHTS_FILE).write_bytes(b"12345")
    provenance = smollm2.Provenance(
        requirement=smollm2.REQUIREMENT,
        wheel_sha256=smollm2.WHEEL_SHA256,
        gguf_sha256=smollm2.GGUF_SHA256,
        weights_sha256="",
        weights_bytes=5,
        largest_difference=0.0,
    )
    (folder / smollm2.PROVENANCE_FILE).write_text(json.dumps(asdict(provenance) | changes))
    return folder
