"""Adapter folders as strangers might send them, drawn by hypothesis, and what holds for them all.

A `Recipe` is a healthy variant and the steps that spoil it. It is plain data: a failure prints it,
`read_recipe` reads it again, and `python benchmarks/fuzz.py --recipe TEXT` runs it alone.

`check` is the oracle. It lints a folder, and raises `BrokenPromise` where something that
SECURITY.md promises does not hold. On Linux the limit of memory is set for the linter's time, so
that a folder which asks for too much is found before the machine feels it.
"""

import ast
import contextlib
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MANIFEST,
    MATTERS,
    MAX_ENTRIES,
    MODEL_CARD,
    PICKLED_WEIGHTS,
    TEMPLATE_FOLDER,
    TRAINING_LOG,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.lint import INTERNAL, LintReport, lint
from phi3_lora_qa.adapter.manifest import make_manifest
from phi3_lora_qa.adapter.safetensors import BITS, open_safetensors
from phi3_lora_qa.adapter.schema import FIELDS, REFUSED
from phi3_lora_qa.errors import BaseModelError, Phi3LoraQAError
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import P, base_config
from tests.adapter.healthy import HEALTHY
from tests.adapter.packing import Raw, bf16, pack, pieces_file
from tests.adapter.tiny_base import WORDS, module_names, tokenizer_files, write_base

MAX_SECONDS = 5.0
"""Of computing, the child's included. Three times as long by the clock is the end in any case: a
busy machine must not look like a slow linter, nor one that waits for ever like a quick one."""

MAX_BYTES = 1 << 30
CHILD = "phi3_lora_qa.adapter.render_child"
"""The only program that linting may start: it renders a chat template under limits of its own."""

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
OLDER = ("special_tokens_map.json", "added_tokens.json", TRAINING_LOG)
PIECES, INNER = "tokenizer.model", f"{TEMPLATE_FOLDER}/rag.jinja"
HEADER = "header"
"""The name under which the weights' header is spoilt as a JSON document."""
CANARY = "canary-9b1e"
"""A text in the files outside, to which links lead: no finding may know it."""


# Recipes: what is drawn, printed and read again.

Step = tuple[Any, ...]
"""A step's name, then its arguments: texts, bytes, integers and tuples of them."""


@dataclass(frozen=True)
class Recipe:
    """A healthy variant, the files beside its weights, the steps that spoil it, and a base."""

    variant: str
    extras: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    base: str = "whole"

    def __str__(self) -> str:
        return repr((self.variant, self.extras, self.steps, self.base))


def read_recipe(text: str) -> Recipe:
    """Read what ``str(recipe)`` wrote."""
    return Recipe(*ast.literal_eval(text))


def write_bases(room: Path) -> Mapping[str, BaseFiles]:
    """Write the bases that adapters are compared with: one whole, one tied, one without weights."""
    whole, tied = write_base(room / "whole"), write_base(room / "tied", tie_word_embeddings=True)
    bare = write_base(room / "bare")
    for name in ("model.safetensors", TOKENIZER, SETTINGS):
        (bare / name).unlink()
    return {folder.name: BaseFiles.open(folder) for folder in (whole, tied, bare)}


@functools.cache
def pristine(variant: str, extras: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return a healthy adapter's files by name."""
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


# Building: the steps, and the image of a folder that they work on.

Members = list[tuple[str, str]]
"""A JSON object's members, key and value each as JSON text, which need not be JSON."""


@dataclass
class Image:
    """A folder that is still being made: files by name, some of them open as JSON documents."""

    files: dict[str, bytes]
    room: Path
    name: str = "adapter"
    documents: dict[str, Members] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.room / self.name

    def members(self, file: str) -> Members:
        """Open a file as a JSON document; what is no JSON object has no members."""
        if file not in self.documents:
            data = split(self.files.get(WEIGHTS, b""))[0] if file == HEADER else b""
            found = parsed(data if file == HEADER else self.files.get(file, b""))
            pairs = found.items() if isinstance(found, dict) else ()
            self.documents[file] = [(json.dumps(k), json.dumps(v)) for k, v in pairs]
        return self.documents[file]

    def close_documents(self) -> None:
        for file, members in self.documents.items():
            text = "{" + ",".join(f"{key}:{value}" for key, value in members) + "}"
            data = text.encode("utf-8", "surrogatepass")
            if file == HEADER:
                rest = split(self.files.get(WEIGHTS, b""))[1]
                self.files[WEIGHTS] = struct.pack("<Q", len(data)) + data + rest
            elif members or file in self.files:
                self.files[file] = data
        self.documents.clear()

    def vacant(self, name: str) -> Path:
        """Return the path of a name in the folder, with nothing there any more."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def regular(self, name: str) -> Path:
        """Return the path of a regular file; nothing else is safe to open or change.

        Raises:
            FileNotFoundError: There is none.
        """
        path = self.folder / name
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileNotFoundError(name)
        return path


STEPS: dict[str, tuple[int, Callable[..., object]]] = {}
"""The steps by name: those on tensors come first, then documents, bytes and the file system."""


def step(phase: int) -> Callable[[Callable[..., object]], Callable[..., object]]:
    def register(apply: Callable[..., object]) -> Callable[..., object]:
        STEPS[apply.__name__] = (phase, apply)
        return apply

    return register


def build(recipe: Recipe, room: Path) -> Path:
    """Make the folder in an empty room, and return the path to lint."""
    image = Image(dict(pristine(recipe.variant, recipe.extras)), room)
    ordered = sorted(recipe.steps, key=lambda each: STEPS[each[0]][0])
    for name, *arguments in (each for each in ordered if STEPS[each[0]][0] < 3):
        if STEPS[name][0] != 1:
            image.close_documents()
        STEPS[name][1](image, *arguments)
    image.close_documents()
    outside = room / "outside"
    outside.mkdir()
    for name in (CONFIG, WEIGHTS, TEMPLATE):
        (outside / name).write_text(f'{{"{CANARY}": 1}}')
    try:
        image.folder.mkdir()
    except OSError:  # a file system that takes no such name
        image.name = "adapter"
        image.folder.mkdir()
    for name, content in image.files.items():
        (image.folder / name).parent.mkdir(exist_ok=True)
        (image.folder / name).write_bytes(content)
    for name, *arguments in (each for each in ordered if STEPS[each[0]][0] == 3):
        with contextlib.suppress(OSError):  # a file system that cannot do it
            STEPS[name][1](image, *arguments)
    return image.folder


def clear(room: Path) -> None:
    """Remove a room and what was built there."""
    for folder in (room, *room.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o700)
    shutil.rmtree(room)


def parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def split(weights: bytes) -> tuple[bytes, bytes]:
    """Return header and data of a safetensors file; both are empty where it is none."""
    length = int.from_bytes(weights[:8], "little")
    sound = len(weights) >= 8 + length
    return (weights[8 : 8 + length], weights[8 + length :]) if sound else (b"", b"")


def unpack(weights: bytes) -> dict[str, Raw]:
    header, data = split(weights)
    found = parsed(header) or {}
    found.pop("__metadata__", None)
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in found.items()
    }


def nth(items: list[str], index: int) -> str | None:
    return items[index % len(items)] if items else None


def filled(dtype: str, shape: tuple[int, ...], fill: str) -> Raw:
    """Return a tensor of this dtype and shape, whole: never more than a megabyte."""
    count = math.prod(shape)
    if count * BITS[dtype] > 8 << 20:
        return dtype, (0,), b""
    kinds: dict[str, type[np.floating[Any]]] = {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.float32,
    }  # fmt: skip
    if dtype not in kinds or count == 0:
        return dtype, shape, bytes(count * BITS[dtype] // 8)
    kind = kinds[dtype]
    info = np.finfo(kind)
    values = {
        "zero": 0.0, "one": 1.0, "nan": math.nan, "infinite": math.inf, "largest": float(info.max),
        "wide": float(info.max) ** 0.6, "smallest": float(info.smallest_subnormal),
    }  # fmt: skip
    if fill in values:
        array = np.full(count, values[fill], kind)
    else:
        exponents = np.random.default_rng(count).uniform(-1, 1, count)
        spread = math.log2(float(info.max)) * (0.99 if fill == "spread" else 0.02)
        array = (np.sign(exponents) * np.exp2(np.abs(exponents) * spread)).astype(kind)
    return bf16(array.reshape(shape)) if dtype == "BF16" else (dtype, shape, array.tobytes())


def on_tensors(change: Callable[..., object]) -> Callable[..., object]:
    """Make a step of a function of the tensors."""

    @functools.wraps(change)
    def apply(image: Image, *arguments: Any) -> None:
        tensors = unpack(image.files[WEIGHTS])
        change(tensors, *arguments)
        image.files[WEIGHTS] = pack(tensors)

    return step(0)(apply)


@on_tensors
def tensor(
    tensors: dict[str, Raw], index: int, dtype: str, shape: tuple[int, ...], fill: str
) -> None:
    """Put another tensor under the name of one, all offsets true."""
    if name := nth(list(tensors), index):
        tensors[name] = filled(dtype, shape, fill)


@on_tensors
def recast(tensors: dict[str, Raw], end: str, dtype: str, fill: str) -> None:
    """Fill the tensors whose names end so with other values, shapes kept."""
    for name in [name for name in tensors if name.endswith(end)]:
        tensors[name] = filled(dtype, tensors[name][1], fill)


@on_tensors
def retitle(tensors: dict[str, Raw], index: int, name: str) -> None:
    if old := nth(list(tensors), index):
        tensors[name] = tensors.pop(old)


@on_tensors
def repeat(tensors: dict[str, Raw], index: int, name: str) -> None:
    if old := nth(list(tensors), index):
        tensors[name] = tensors[old]


@on_tensors
def lose(tensors: dict[str, Raw], index: int) -> None:
    if name := nth(list(tensors), index):
        tensors.pop(name)


@on_tensors
def swarm(tensors: dict[str, Raw], kind: str, count: int) -> None:
    """Add empty tensors: for modules of a Phi-3 of many layers, or for deep or many names."""
    names = {
        "layers": lambda n: f"{module_names()[n % 4].replace('.0.', f'.{n // 4}.')}.lora_A.weight",
        "deep": lambda n: f"{'a.' * 230}{n}.lora_B.weight",
        "other": lambda n: f"model.layers.{n}.x{n}.y.lora_A.weight",
        "junk": lambda n: f"{n}.lora_a.lora_b.module.x",
    }
    for number in range(min(count, 1500) if kind == "deep" else count):
        tensors.setdefault(P + names[kind](number), ("F32", (1, 0), b""))


@step(1)
def put(image: Image, file: str, key: str, value: str) -> None:
    """Set a member of a JSON document."""
    members = image.members(file)
    at = next((n for n, (k, _) in enumerate(members) if k == json.dumps(key)), len(members))
    members[at : at + 1] = [(json.dumps(key), raw(value))]


@step(1)
def twice(image: Image, file: str, index: int, value: str) -> None:
    """Write a member a second time."""
    if members := image.members(file):
        members.append((members[index % len(members)][0], raw(value)))


@step(1)
def rekey(image: Image, file: str, index: int, key: str) -> None:
    """Give a member another key, as JSON text."""
    if members := image.members(file):
        at = index % len(members)
        members[at] = (raw(key), members[at][1])


@step(1)
def forget(image: Image, file: str, index: int) -> None:
    """Leave a member out."""
    if members := image.members(file):
        members.pop(index % len(members))


@step(1)
def node(image: Image, file: str, index: int, inner: int, value: str) -> None:
    """Replace one value somewhere within a member."""
    members = image.members(file)
    found = parsed(members[index % len(members)][1].encode()) if members else None
    places = list(_places(found))
    if places:
        holder, key = places[inner % len(places)]
        holder[key] = CANARY
        text = json.dumps(found).replace(f'"{CANARY}"', raw(value))
        members[index % len(members)] = (members[index % len(members)][0], text)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    for key in keys:
        yield value, key
        yield from _places(value[key])


@step(1)
def crowd(image: Image, file: str, count: int, repeated: int) -> None:
    """Add many members, the last of them as often as is said."""
    members = image.members(file)
    members.extend((f'"{number:x}"', "0") for number in range(count))
    members.extend(members[-1:] * repeated)


@step(2)
def flip(image: Image, file: str, at: int, value: int) -> None:
    data = bytearray(image.files.get(file, b""))
    if data:
        data[at % len(data)] ^= value
        image.files[file] = bytes(data)


@step(2)
def cut(image: Image, file: str, at: int) -> None:
    data = image.files.get(file, b"")
    image.files[file] = data[: at % (len(data) + 1)]


@step(2)
def insert(image: Image, file: str, at: int, content: bytes) -> None:
    data = image.files.get(file, b"")
    at %= len(data) + 1
    image.files[file] = data[:at] + content + data[at:]


@step(2)
def splice(image: Image, file: str, other: str, at: int, size: int) -> None:
    """Overwrite a part of one file by a part of another."""
    data, source = image.files.get(file, b""), image.files.get(other, b"")
    at %= len(data) + 1
    piece = source[at % (len(source) + 1) :][:size]
    image.files[file] = data[:at] + piece + data[at + len(piece) :]


@step(2)
def length(image: Image, value: int) -> None:
    """Claim another length of the header."""
    image.files[WEIGHTS] = struct.pack("<Q", value) + image.files[WEIGHTS][8:]


@step(2)
def write(image: Image, file: str, content: bytes, times: int) -> None:
    image.files[file] = content * times


@step(2)
def template(image: Image, index: int) -> None:
    image.files[TEMPLATE] = TEMPLATES[index].encode("utf-8", "surrogatepass")


@step(3)
def link(image: Image, name: str, kind: str) -> None:
    targets: dict[str, str | Path] = {
        "outside": image.room / "outside" / (name if name in (CONFIG, WEIGHTS) else TEMPLATE),
        "inside": MODEL_CARD, "dangling": "nothing-here", "loop": name, "parent": "..",
        "endless": "/dev/zero",
    }  # fmt: skip
    if kind == "moved":
        image.regular(name).rename(image.folder / "kept")
        (image.folder / name).symlink_to("kept")
    else:
        image.vacant(name).symlink_to(targets[kind])


@step(3)
def special(image: Image, name: str, kind: str) -> None:
    path = image.vacant(name)
    if kind == "folder":
        path.mkdir()
        (path / CONFIG).write_text("{}")
    else:
        os.mknod(path, 0o600 | (stat.S_IFIFO if kind == "pipe" else stat.S_IFSOCK))


@step(3)
def beside(image: Image, name: str, content: bytes) -> None:
    """Lay a file beside the others, under any name that the file system takes."""
    image.vacant(name).write_bytes(content)


@step(3)
def many(image: Image, count: int) -> None:
    for number in range(count):
        (image.folder / f"n{number}").touch()


@step(3)
def sparse(image: Image, name: str, size: int) -> None:
    """Make a file end far behind its content, with nothing between."""
    if name in image.files:
        path = image.regular(name)
    else:
        path = image.vacant(name)
        path.touch()
    os.truncate(path, max(size, path.stat().st_size))


@step(3)
def sparse_tensor(image: Image, index: int, columns: int) -> None:
    """Declare a tensor of gigabytes, truly, in a file that has no block of it."""
    path = image.regular(WEIGHTS)
    try:
        tensors = unpack(image.files[WEIGHTS])
        name = list(tensors)[index % len(tensors)]
        rows = (*tensors.pop(name)[1], 4)[0]
        text, data = split(pack(tensors))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # an earlier step has spoilt the file already
    header = json.loads(text)
    shape = [min(rows, 1 << 10), columns]
    stop = len(data) + 4 * math.prod(shape)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text + data)
        handle.truncate(8 + len(text) + stop)


@step(3)
def closed(image: Image, name: str) -> None:
    """Take away the right to read; root reads all the same."""
    image.regular(name).chmod(0)


@step(3)
def remove(image: Image, name: str) -> None:
    image.vacant(name)


@step(3)
def instead(image: Image, kind: str) -> None:
    """Have something else than a folder under the adapter's path."""
    folder, away = image.folder, image.room / "away"
    folder.rename(away)
    if kind == "link":
        folder.symlink_to(away)
    elif kind == "loop":
        folder.symlink_to(folder.name)
    elif kind == "file":
        folder.write_text("{}")
    elif kind == "pipe":
        os.mkfifo(folder)


@step(0)
def call(image: Image, name: str) -> None:
    """Give the folder itself another name."""
    image.name = name


# Hostile texts. A value that begins with @ stands for a long one: @NAME:SIZE.

PATTERNS = (
    "(a|a)*b", "(.*)*$", "(.*a){20}", "((a*)*)*b", "([a-z]+)+$", "(a?){50}a{50}", ".*" * 1500,
    "(" * 39 + "(a|.)*" + ")*" * 39 + "b", "(" * 300 + ")" * 300, "[", "[^", "[]", "[a-", "[z-a]",
    "\\", "\\1", "(?i)x", "(?=x)", "(?P<n>x)", "(?P<n", "x{4}{4}", "x{,}", "x{9999}", "(x{60}){60}",
    "((((x{9}){9}){9}){9}){9}", "|" * 8000, "(|)*" * 500, "." * 8192, "." * 8193, "^" * 2000,
    "(^|$)*", "\\b" * 1000 + ".*", "[\\d\\D]*" * 400, "[^" + "z" * 1900 + "]{1300}",
    "([" + "zy" * 900 + "a-y.0-9_]|l){1,900}", "(" + "|".join("abcdefgh" * 200) + ")*", "\ud800",
    ".*\u202e", "\n::error::x", "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", ".*proj", "all-linear", "",
    "x{99999999999999999999}", "(x*){3999}", "(((((.?){9}){9}){9}){4})", "[" + "a-z" * 2000 + "]*",
)  # fmt: skip

TEMPLATES = (
    "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}", "{{ 'a' * 10**9 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ cycler.__init__.__globals__ }}",
    "{% set x = namespace(a='a') %}{% for i in range(60) %}{% set x.a = x.a ~ x.a %}{% endfor %}",
    "{{ raise_exception('\x1b[2J') }}", "{{ (" * 50, "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ 9 ** 9 ** 9 }}", "{% for a in messages %}{% for b in messages %}" * 8, "\ud800", "{{ '\n",
    "{{ messages[0].content.format(1) }}", "{{ '%0999999999d' % 1 }}", "{{ x | tojson }}" * 9000,
    "{% if true %}" * 200 + "{% endif %}" * 200, "x" * 500_000, "{{ ' ' | center(10**10) }}", "",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{{ 'hidden' }}",
)  # fmt: skip

LONG: dict[str, Callable[[int], str]] = {
    "digits": lambda n: "9" * n,
    "list": lambda n: "[" * n + "]" * n,
    "object": lambda n: '{"a":' * n + "1" + "}" * n,
    "open": lambda n: "[" * n,
    "text": lambda n: json.dumps("x" * n),
    "escapes": lambda n: '"' + "\\u202e" * n + '"',
    "names": lambda n: json.dumps([f"x{number}" for number in range(n)]),
    "dots": lambda n: json.dumps(["." * (1 + number % 40) + "x" for number in range(n)]),
    "integers": lambda n: json.dumps(list(range(n))),
    "empties": lambda n: "[" + ",".join(["[]"] * n) + "]",
    "table": lambda n: json.dumps({f"x{number}": 4 for number in range(n)}),
    "dotted": lambda n: json.dumps({f"{number}".rjust(36, "."): 4 for number in range(n)}),
    "lists": lambda n: json.dumps({f"x{number}": [0] for number in range(n)}),
    "tokens": lambda n: json.dumps({"embed_tokens": list(range(n)), "lm_head": list(range(n))}),
    "pattern": lambda n: json.dumps(PATTERNS[n % len(PATTERNS)]),
    "patterns": lambda n: json.dumps(dict.fromkeys(_variations(n, 500), 4)),
    "few": lambda n: json.dumps(dict.fromkeys(_variations(n, 20), 4)),
    "zone": lambda n: json.dumps(_variations(n, 50)),
    "pair": lambda n: json.dumps(_variations(n, 2)),
    "template": lambda n: json.dumps(TEMPLATES[n % len(TEMPLATES)]),
    "far": lambda n: json.dumps(["qkv_proj", "down_proj", f"model.layers.{n}.mlp.down_proj"]),
    "blocks": lambda n: json.dumps({
        "nblocks": 2, "match_strict": False,
        "target_modules_bd_a": [f"x{k}" for k in range(n)],
        "target_modules_bd_b": [f"y{k}" for k in range(n)],
    }),
}  # fmt: skip


def _variations(index: int, count: int) -> list[str]:
    """Return so many patterns that are almost the same, as far as a config has room for them."""
    pattern = PATTERNS[index % len(PATTERNS)]
    count = min(count, 900_000 // (len(pattern) + 20))
    return [f"{pattern}|x{number}" for number in range(count)]


def raw(value: str) -> str:
    """Return the JSON text, or what only claims to be one, that a value stands for."""
    if not value.startswith("@"):
        return value
    name, _, size = value[1:].partition(":")
    return LONG[name](int(size))


# Strategies.

_COUNTS = st.sampled_from([1, 3, 40, 512, 2048, 16_000, 100_000])
_INDEX = st.integers(0, 400)
_LONG = st.one_of(
    st.builds("@{}:{}".format, st.sampled_from(sorted(set(LONG) - {"far", "blocks"})), _COUNTS),
    st.sampled_from(["@far:255", "@far:9999", "@blocks:3", "@blocks:2048", "@digits:400",
                     "@digits:4301", "@list:20", "@list:33", "@digits:30"]),
)  # fmt: skip
_LITERALS = (
    "null", "true", "false", "0", "1", "2", "4", "-1", "-0.0", "0.5", "7.5", "1e308", "-1e308",
    "1e999", "1e-320", "3.4e38", "65536", "65537", "9223372036854775807", "9223372036854775808",
    "NaN", "Infinity", "-Infinity", '""', '"\\ud800"', '"\\udc00\\ud800"', '"\\u202e\\u0007"',
    '"\\u0000"', '"qkv_proj"', '"all-linear"', '"lm_head"', '"mica"', '"pissa_niter_4"', '"LoRA"',
    '"lora_only"', '"/etc/passwd"', '"\\n::error::x"', "[]", "{}", "[[]]", "[null]", '["qkv_proj"]',
    '["lm_head","embed_tokens"]', "[0]", "[1,0]", "[0,1.0]", "[true]", '{"o_proj":4}', '{"":1}',
    '{"embed_tokens":[0,95]}', '{"lm_head":[99999]}', '{"a":{"b":[{}]}}', "1,", "tru", "'x'", "",
    '{"num_groups":4}', '{"num_samples":3}', '["mlp.down_proj.weight"]', '["","a.b","layers"]',
    '"<|end|>"', '{"train":0}', '{"content":"<|end|>"}', '[{"content":"x","id":96}]', '["norm"]',
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "", "\u202eabc", "\x1b[2J", "a\nb", "\ud800", "::error::x", "x" * 600, "__metadata__",
        P + "lm_head.weight", P + "model.norm.weight", P + "model.layers.0.mlp.down_proj.weight",
        P + "model.layers.1.self_attn.o_proj.lora_A.default.weight", P + "x.lora_A.\u202e.weight",
        P + "model.layers.999999.mlp.down_proj.lora_A.weight", P + "model.layers.٣.x.lora_B.weight",
        P + "model.embed_tokens.base_layer.weight", "model.layers.0.lora_a.module._orig_mod",
        P * 40, P + "model.layers.0.mlp.down_proj.lora_magnitude_vector.weight", "x" * 9_000,
        P + "lm_head.token_adapter.trainable_tokens_delta", P + "lm_head.lora_B.bias",
    ]),
)  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(_LITERALS),
    _LONG,
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(json.dumps),
    _TEXTS.map(json.dumps),
    st.builds("[{},{}]".format, st.sampled_from(_LITERALS), st.sampled_from(_LITERALS)),
    st.builds('{{"a":{},"o_proj":{}}}'.format, *[st.sampled_from(_LITERALS)] * 2),
)
_PATTERN = st.integers(0, len(PATTERNS) - 1)
_DOCUMENTS = st.sampled_from(
    [CONFIG, CONFIG, HEADER, HEADER, MANIFEST, SETTINGS, TOKENIZER, *OLDER]
)
_FILES = st.sampled_from(
    [CONFIG, WEIGHTS, WEIGHTS, MANIFEST, MODEL_CARD, SETTINGS, TOKENIZER, TEMPLATE, PIECES, INNER,
     *OLDER]
)  # fmt: skip
_ODD_NAMES = (
    "a\nb", "\udcff\udcfe", "\u202egpj", "-rf", "x" * 255, "adapter_model.safetensors ", ".hidden",
    "ADAPTER_CONFIG.JSON", "modeling.py", "x.so", "optimizer.pt", "training_args.bin", "a:b,c%d",
    PICKLED_WEIGHTS, "\x1b[2J", "adapter_c\u043enfig.json", "model.safetensors.index.json", "é",
)  # fmt: skip
_NAMES = st.one_of(
    st.sampled_from(MATTERS),
    st.sampled_from(_ODD_NAMES),
    st.sampled_from([TEMPLATE_FOLDER, INNER, TRAINING_LOG, "config.json", "pytest.ini"]),
)
_AT = st.one_of(st.integers(0, 300), st.integers(0, 1 << 20))
_DTYPES = st.one_of(st.sampled_from(["F64", "F32", "F16", "BF16"]), st.sampled_from(sorted(BITS)))
_FILLS = st.sampled_from(
    ["zero", "one", "nan", "infinite", "largest", "wide", "smallest", "spread", "usual"]
)
_SIZES = st.sampled_from([0, 1, 2, 4, 6, 32, 64, 96, 257, 1 << 31, 1 << 40, (1 << 62), (1 << 63)])
_SHAPES = st.lists(_SIZES, max_size=4).map(tuple)
_ENDS = st.sampled_from(["", "lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "weight"])
_CONFIG_FIELDS = st.sampled_from([*FIELDS, *REFUSED, "auto_mapping", "é\u202e", "", "peft"])
_PATTERN_FIELDS = st.sampled_from(["target_modules", "exclude_modules", "layers_pattern"])
_TABLE_FIELDS = st.sampled_from(["rank_pattern", "alpha_pattern", "trainable_token_indices"])
_MANIFEST_FIELDS = st.sampled_from(
    ["files", "scaling", "final_losses", "seed", "schema_version", "base_fingerprint", "versions"]
)
_SETTINGS_FIELDS = st.sampled_from(
    ["pad_token", "eos_token", "chat_template", "added_tokens_decoder", "extra_special_tokens",
     "auto_map", "tokenizer_class", "a_token"]
)  # fmt: skip
_TOKENIZER_PARTS = st.sampled_from(
    ["model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
)
_PARTS = st.sampled_from(
    ['{"type":"Sequence","pretokenizers":[{"type":"Sequence"}]}', '{"type":[]}', '{"type":{}}',
     '{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":[]}}]}', '{"type":"Metaspace"}',
     '{"type":"TemplateProcessing","single":"abc","special_tokens":[]}', '{"type":"Sequence"}',
     '{"type":"BPE","vocab":{"a":0},"merges":["a a"]}', '{"vocab":[["a",0]],"unk_id":0}',
     '{"type":"Unigram","vocab":[["a","b"]]}', '{"type":"BPE","vocab":{"a":-1},"merges":[[]]}']
)  # fmt: skip


def _step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), *arguments)


_SOUND = sorted(
    {
        (name, json.dumps(value))
        for make in HEALTHY.values()
        for name, value in make().config.items()
        if value != base_config().get(name)
    }
)
"""Fields as the healthy variants set them, to be put into others."""

_JSON_STEPS = (
    st.sampled_from(_SOUND).map(lambda pair: ("put", CONFIG, *pair)),
    st.sampled_from(_SOUND).map(lambda pair: ("put", CONFIG, *pair)),
    _step("put", st.just(CONFIG), _CONFIG_FIELDS, _VALUES),
    _step("put", st.just(CONFIG), _CONFIG_FIELDS, _VALUES),
    _step("put", st.just(CONFIG), _PATTERN_FIELDS, _PATTERN.map("@pattern:{}".format)),
    _step("put", st.just(CONFIG), _TABLE_FIELDS, _PATTERN.map("@patterns:{}".format)),
    _step("put", st.just(CONFIG), st.just("modules_to_save"), _PATTERN.map("@zone:{}".format)),
    _step("put", st.just(CONFIG), st.just("target_modules"), st.just("@far:255")),
    _step("put", st.just(MANIFEST), _MANIFEST_FIELDS, _VALUES),
    _step("put", st.just(SETTINGS), _SETTINGS_FIELDS, _VALUES),
    _step("put", st.just(TOKENIZER), _TOKENIZER_PARTS, _VALUES | _PARTS),
    _step("put", st.sampled_from(OLDER), st.sampled_from(["eos_token", "<|end|>"]), _VALUES),
    _step("put", st.just(TRAINING_LOG), st.just("log_history"), _VALUES),
    _step("put", st.just(HEADER), st.just("__metadata__"), _VALUES),
    _step("put", st.just(HEADER), _TEXTS, _VALUES),
    _step("node", st.just(HEADER), _INDEX, _INDEX, _VALUES),
    _step("node", _DOCUMENTS, _INDEX, _INDEX, _VALUES),
    _step("node", st.just(MANIFEST), _INDEX, _INDEX, _VALUES),
    _step("twice", _DOCUMENTS, _INDEX, _VALUES),
    _step("rekey", _DOCUMENTS, _INDEX, _TEXTS.map(json.dumps) | st.sampled_from(_LITERALS)),
    _step("forget", _DOCUMENTS, _INDEX),
    _step("crowd", _DOCUMENTS, st.sampled_from([5, 600, 20_000, 90_000]), st.integers(0, 2)),
)  # fmt: skip
_TENSOR_STEPS = (
    _step("tensor", _INDEX, _DTYPES, _SHAPES, _FILLS),
    _step("recast", _ENDS, _DTYPES, _FILLS),
    _step("retitle", _INDEX, _TEXTS),
    _step("repeat", _INDEX, _TEXTS),
    _step("lose", _INDEX),
    _step("swarm", st.sampled_from(["layers", "deep", "other", "junk"]),
          st.sampled_from([20, 300, 2000, 6000, 16_400])),
)  # fmt: skip
_BYTE_STEPS = (
    _step("flip", _FILES, _AT, st.integers(1, 255)),
    _step("cut", _FILES, _AT),
    _step("insert", _FILES, _AT, st.binary(min_size=1, max_size=9)),
    _step("splice", _FILES, _FILES, _AT, st.sampled_from([1, 8, 100, 5000])),
    _step("length", st.one_of(st.integers(0, 9000), st.sampled_from([1 << 23, 2**63, 2**64 - 1]))),
    _step(
        "write", _FILES,
        st.sampled_from([b"", b"{}", b"[", b"\0", b"\xff", b"\xef\xbb\xbf{}", b"PK\x03\x04",
                         b"\x80\x02}.", b"version https://git-lfs", b"\xed\xa0\x80", b'{"a":']),
        st.sampled_from([1, 1, 9, 100_000]),
    ),
)  # fmt: skip
_TEMPLATE_STEPS = (
    _step("template", st.integers(0, len(TEMPLATES) - 1)),
    _step(
        "put", st.just(SETTINGS), st.just("chat_template"),
        st.integers(0, len(TEMPLATES) - 1).map("@template:{}".format),
    ),
)  # fmt: skip
_PLACE_STEPS = (
    _step("link", _NAMES, st.sampled_from(
        ["outside", "inside", "dangling", "loop", "parent", "endless", "moved"])),
    _step("special", _NAMES, st.sampled_from(["pipe", "socket", "folder"])),
    _step("beside", _NAMES, st.binary(max_size=20)),
    _step("many", st.sampled_from([50, MAX_ENTRIES - 3, MAX_ENTRIES + 5])),
    _step("sparse", _NAMES, st.sampled_from([5 << 20, 65 << 20, 900 << 20, 5 << 30, 33 << 30])),
    _step("sparse_tensor", _INDEX, st.sampled_from([1 << 20, 1 << 26, 1 << 29, 1 << 31])),
    _step("closed", _NAMES),
    _step("remove", _NAMES),
    _step("instead", st.sampled_from(["nothing", "link", "loop", "file", "pipe"])),
    _step("call", st.sampled_from(["a\nb", "\udcff", "\u202ea", "-x", "::error::x", "x" * 255])),
)  # fmt: skip

_EXTRAS = ("tokenizer", "template", "older", "card", "manifest")


def recipes(*, quick: bool = False, max_steps: int = 4) -> st.SearchStrategy[Recipe]:
    """Draw recipes of one to some steps, from any healthy variant.

    Args:
        quick: Leave out what keeps the linter busy for seconds, as it may.
        max_steps: How many steps there are at most.
    """
    any_step = st.one_of(
        st.one_of(*_JSON_STEPS),
        st.one_of(*_JSON_STEPS),
        st.one_of(*_TENSOR_STEPS),
        st.one_of(*_BYTE_STEPS),
        st.one_of(*_PLACE_STEPS),
        st.one_of(*_PLACE_STEPS, *_TEMPLATE_STEPS),
    )
    return st.builds(
        Recipe,
        st.sampled_from(sorted(HEALTHY)),
        st.sampled_from(
            [
                (),
                (),
                (),
                ("card",),
                *[("card", "manifest")] * 3,
                ("tokenizer",),
                ("tokenizer", "older"),
                _EXTRAS,
            ]
        ),
        st.lists(any_step.map(_lighter) if quick else any_step, min_size=1, max_size=max_steps).map(
            tuple
        ),
        st.sampled_from(["whole", "whole", "tied", "bare"]),
    )


def _lighter(heavy: Step) -> Step:
    """Make a step smaller: fewer patterns and tensors, and no template without end."""
    match heavy:
        case ("swarm", kind, count):
            return ("swarm", kind, min(count, 300))
        case ("many", count):
            return ("many", min(count, 50))
        case ("crowd", file, count, repeated):
            return ("crowd", file, min(count, 20_000), repeated)
        case ("template", 0):
            return ("template", 1)
        case ("put", file, key, str(value)):
            lighter = value.replace("@patterns:", "@few:").replace("@zone:", "@pair:")
            return ("put", file, key, "@template:1" if lighter == "@template:0" else lighter)
        case _:
            return heavy


# The oracle.


class BrokenPromise(AssertionError):  # noqa: N818 - what it is, and not that it is an error
    """Something that must hold for every folder does not; ``kind`` is the same for like ones."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class _Overtime(BaseException):
    """Raised out of the linter by the alarm clock; no ``except Exception`` may catch it."""


def check(folder: Path, base: BaseFiles) -> str:
    """Lint a folder without and with a base, and hold what happens to what is promised.

    Returns:
        ``accepted`` or ``rejected``, the stricter of the two, or ``error`` for a typed error.

    Raises:
        BrokenPromise: Something does not hold.
    """
    outcomes = [outcome(folder, given) for given in (None, base)]
    return next((o for o in ("error", "rejected") if o in outcomes), "accepted")


def outcome(folder: Path, base: BaseFiles | None) -> str:
    """Do what `check` does, once."""
    before, descriptors = _snapshot(folder), _descriptors()
    try:
        report = _bounded_lint(folder, base)
    except BaseModelError as error:
        raise BrokenPromise("the base is blamed", repr(error)) from error
    except Phi3LoraQAError as error:
        if not str(error).isprintable():
            raise BrokenPromise("an error is not printable", repr(error)) from error
        report = None
    except BrokenPromise:
        raise
    except Exception as error:
        raise BrokenPromise(f"an untyped {type(error).__name__}", repr(error)) from error
    if _snapshot(folder) != before:
        raise BrokenPromise("the folder was changed", str(_snapshot(folder)))
    if _descriptors() != descriptors:
        raise BrokenPromise("a file was left open")
    if report is None:
        return "error"
    _check_report(report, folder)
    return report.verdict


def _check_report(report: LintReport, folder: Path) -> None:
    for found in report.findings:
        texts = (found.where, found.message, found.fix)
        if found.rule == INTERNAL:
            what = found.message.partition(":")[0]
            raise BrokenPromise(f"the linter failed: {what}", found.message)
        if not all(text and text.isprintable() and len(text) < 4100 for text in texts):
            raise BrokenPromise(
                f"a text of {found.rule} is empty, long or unprintable", repr(found)
            )
        if any(CANARY in text for text in texts):
            raise BrokenPromise("a link was followed", repr(found))
    if not report.adapter.isprintable():
        raise BrokenPromise("the adapter's path is not printable", repr(report.adapter))
    if report.accepted:
        _check_accepted(folder)


def _check_accepted(folder: Path) -> None:
    """Hold an accepted folder to the reference parser, and to having nothing but regular files."""
    from safetensors import safe_open

    for path in folder.iterdir():
        regular = stat.S_ISREG(path.lstat().st_mode)
        if not regular and (path.name in MATTERS or not path.is_dir() or path.is_symlink()):
            raise BrokenPromise("what is no regular file is accepted", repr(path.name))
    with safe_open(folder / WEIGHTS, "np") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    opened = AdapterFolder.open(folder)
    own = open_safetensors(functools.partial(opened.open_file, WEIGHTS), WEIGHTS)
    if theirs != {name: info.shape for name, info in own.tensors.items()}:
        raise BrokenPromise("the reference parser sees other tensors", str(folder))


def _bounded_lint(folder: Path, base: BaseFiles | None) -> LintReport:
    deeds: list[tuple[str, str]] = []
    start, peak = _computed(), _peak()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with _memory_limit(), _alarm(3 * MAX_SECONDS), _watched(folder, deeds):
                return lint(AdapterFolder.open(folder), base)
        except _Overtime:
            raise BrokenPromise("it took too long", f"more than {3 * MAX_SECONDS:g} s") from None
        finally:
            taken, grown = _computed() - start, _peak() - peak
            if taken > MAX_SECONDS:
                raise BrokenPromise("it took too long", f"{taken:.1f} s of computing")
            if grown > MAX_BYTES:
                raise BrokenPromise("it took too much memory", f"{grown >> 20} MiB")
            if deeds:
                raise BrokenPromise(f"it did {deeds[0][0]}", repr(deeds))
            if warned:
                raise BrokenPromise(f"a {warned[0].category.__name__}", str(warned[0].message))


def _snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what lstat says of everything in the folder; the time of the last read is left out."""
    try:
        paths = [folder, *folder.iterdir()]
    except OSError:
        return {}
    return {
        path.name: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink)
        for path in paths
        for s in (path.lstat(),)
    }


def _descriptors() -> int:
    place = Path("/proc/self/fd")
    return sum(1 for _ in place.iterdir()) if place.is_dir() else 0


def _computed() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """Let the process map no more than `MAX_BYTES` beyond what it has mapped already."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        yield
        return
    mapped = int(status.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = min([mapped + MAX_BYTES, *(n for n in (soft, hard) if n != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Overtime

    previous = signal.signal(signal.SIGALRM, ring)
    # Again each second: what rings during a callback of the garbage collector is thrown away.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Python calls an audit hook at each of these; a hook cannot be removed, so it looks for a watch.

_DEEDS = (
    "socket.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.startfile", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile.",
    "pickle.", "pty.", "ftplib.", "urllib.", "http.", "smtplib.", "webbrowser.", "subprocess.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class _Watch:
    folder: str
    thread: int
    deeds: list[tuple[str, str]]


_watch: _Watch | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _watch
    if watch is None or threading.get_ident() != watch.thread:
        return
    if event == "open":
        bad = _is_bad_open(watch.folder, *arguments)
    else:
        bad = event.startswith(_DEEDS) and not _is_child(event, arguments)
    if bad:
        watch.deeds.append((event, repr(arguments)[:500]))


def _is_bad_open(folder: str, path: Any, mode: str | None, flags: int) -> bool:
    """Whether a file is opened for writing, or one of the adapter's that must be left alone."""
    if isinstance(path, int):  # a pipe to the child
        return False
    text = os.fsdecode(path)
    if flags & _WRITES or set(mode or "") & set("wax+"):
        return text != os.devnull
    inside = text.startswith(folder)
    inner = text.removeprefix(folder)
    read = inner in (*MATTERS, TRAINING_LOG, TEMPLATE_FOLDER) or (
        inner.startswith(f"{TEMPLATE_FOLDER}/") and inner.endswith(".jinja")
    )
    return inside and not (read and flags & os.O_NOFOLLOW)


def _is_child(event: str, arguments: tuple[Any, ...]) -> bool:
    if event not in ("subprocess.Popen", "os.posix_spawn"):
        return False
    words = [os.fsdecode(word) for word in arguments[1]]
    return CHILD in words or any(word.endswith(CHILD.replace(".", "/") + ".py") for word in words)


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)


@contextlib.contextmanager
def _watched(folder: Path, deeds: list[tuple[str, str]]) -> Iterator[None]:
    """Write down every deed that no linting may do."""
    global _watch  # noqa: PLW0603 - a hook has no other place to look
    _install()
    _watch = _Watch(f"{folder}{os.sep}", threading.get_ident(), deeds)
    try:
        yield
    finally:
        _watch = None


def warm_up(bases: Mapping[str, BaseFiles]) -> None:
    """Lint healthy adapters once, so that what Python imports and compiles is not watched."""
    sys.dont_write_bytecode = True
    names = sorted(HEALTHY)
    random.Random(0).shuffle(names)
    with tempfile.TemporaryDirectory() as place:
        for name in names[:4]:
            room = Path(place) / name
            room.mkdir()
            folder = build(Recipe(name, _EXTRAS), room)
            for given in (None, *bases.values()):
                lint(AdapterFolder.open(folder), given)
