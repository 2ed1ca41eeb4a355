"""Builds the folder of a recipe by running its steps, ordered by phase."""

import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MANIFEST,
    MODEL_CARD,
    TRAINING_LOG,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.manifest import make_manifest
from phi3_lora_qa.models.registry import bundled
from tests.adapter.fuzzing.byte_steps import ON_BYTES
from tests.adapter.fuzzing.document_steps import ON_DOCUMENTS
from tests.adapter.fuzzing.file_system_steps import ON_FILE_SYSTEM, call
from tests.adapter.fuzzing.hostile_texts import TEMPLATES
from tests.adapter.fuzzing.image import CANARY, INNER, PIECES, SETTINGS, TEMPLATE, TOKENIZER, Image
from tests.adapter.fuzzing.recipes import Recipe
from tests.adapter.fuzzing.tensor_steps import ON_TENSORS
from tests.adapter.healthy import HEALTHY
from tests.adapter.packing import pieces_file
from tests.adapter.tiny_base import WORDS, tokenizer_files, write_base

DOCUMENTS, PLACES = 1, 3
PHASES = ((call, *ON_TENSORS), ON_DOCUMENTS, ON_BYTES, ON_FILE_SYSTEM)
"""The steps in the order in which they run; those of the last phase change the file system."""
STEPS = {apply.__name__: (phase, apply) for phase, steps in enumerate(PHASES) for apply in steps}

EXTRAS = ("tokenizer", "template", "older", "card", "manifest")


def write_bases(room: Path) -> Mapping[str, BaseFiles]:
    """Write the bases to compare with: a complete one, a tied one, one without weights."""
    whole, tied = write_base(room / "whole"), write_base(room / "tied", tie_word_embeddings=True)
    bare = write_base(room / "bare")
    for name in ("model.safetensors", TOKENIZER, SETTINGS):
        (bare / name).unlink()
    return {folder.name: BaseFiles.open(folder) for folder in (whole, tied, bare)}


@functools.cache
def pristine(variant: str, extras: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return the files of a healthy adapter by name."""
    adapter = HEALTHY[variant]()
    if "tokenizer" in extras:
        adapter.files |= tokenizer_files()
    if "template" in extras:
        adapter.files[TEMPLATE] = (bundled("tiny") / "base" / TEMPLATE).read_bytes()
    if "older" in extras:
        adapter.files |= {
            "special_tokens_map.json": b'{"eos_token": {"content": "<|end|>"}}',
            "added_tokens.json": b'{"<|end|>": %d}' % (WORDS + 1),
            PIECES: pieces_file([("word0", 0.0, 1), ("word1", -1.0, 1)]),
            INNER: TEMPLATES[-1].encode(),
            TRAINING_LOG: b'{"log_history": [{"loss": 1.5, "step": 1}, {"eval_loss": 1.25}]}',
        }
    if "card" in extras:
        adapter.files[MODEL_CARD] = b"# An adapter\n"
    with tempfile.TemporaryDirectory() as place:
        folder = adapter.save(Path(place))
        if "manifest" in extras:
            manifest = make_manifest(
                AdapterFolder.open(folder),
                base_id="tiny",
                seed=0,
                versions={"peft": "0.21.2"},
                final_losses={"train": 1.0},
            )
            (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def build(recipe: Recipe, room: Path) -> Path:
    """Make the folder in an empty directory, and return the path to lint."""
    image = Image(dict(pristine(recipe.variant, recipe.extras)), room)
    ordered = sorted(recipe.steps, key=lambda each: STEPS[each[0]][0])
    for name, *arguments in (each for each in ordered if STEPS[each[0]][0] < PLACES):
        if STEPS[name][0] != DOCUMENTS:
            image.close_documents()
        STEPS[name][1](image, *arguments)
    image.close_documents()
    outside = room / "outside"
    outside.mkdir()
    for name in (CONFIG, WEIGHTS, TEMPLATE):
        (outside / name).write_text(f'{{"{CANARY}": 1}}')
    try:
        image.folder.mkdir()
    except OSError:  # the file system rejects such a name
        image.name = "adapter"
        image.folder.mkdir()
    for name, content in image.files.items():
        (image.folder / name).parent.mkdir(exist_ok=True)
        (image.folder / name).write_bytes(content)
    for name, *arguments in (each for each in ordered if STEPS[each[0]][0] == PLACES):
        with contextlib.suppress(OSError):  # the file system does not support it
            STEPS[name][1](image, *arguments)
    return image.folder


def clear(room: Path) -> None:
    """Remove a directory and what was built in it."""
    for folder in (room, *room.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o700)
    shutil.rmtree(room)
