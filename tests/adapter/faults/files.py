"""Faults of the files."""

import os

import numpy as np

from tests.adapter.faults.ways import (
    CONFIG,
    WEIGHTS,
    Fault,
    afterwards,
    link,
    only_pickle,
    rewrite,
    weights_link,
    with_files,
)
from tests.adapter.packing import pack

FILES: dict[str, Fault] = {
    "truncated": Fault(rule="files-weights-unreadable", apply=rewrite(lambda d: d[:-7])),
    "trailing bytes": Fault(rule="files-weights-unreadable", apply=rewrite(lambda d: d + b"\0")),
    "empty file": Fault(rule="files-wrong-kind", apply=rewrite(lambda d: b"")),
    "git-lfs pointer": Fault(
        rule="files-wrong-kind",
        apply=rewrite(lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    "renamed pickle": Fault(
        rule="files-wrong-kind", apply=rewrite(lambda d: b"PK\x03\x04" + bytes(99))
    ),
    "no tensors": Fault(rule="files-weights-empty", apply=rewrite(lambda d: pack({}))),
    "weights missing": Fault(
        rule="files-weights-missing", apply=afterwards(lambda f: (f / WEIGHTS).unlink())
    ),
    "weights in parts": Fault(
        rule="files-weights-sharded",
        apply=afterwards(
            lambda f: (f / WEIGHTS).rename(f / "adapter_model-00001-of-00002.safetensors")
        ),
    ),
    "only a pickle": Fault(rule="files-pickled-weights", apply=afterwards(only_pickle)),
    "config missing": Fault(
        rule="files-config-missing", apply=afterwards(lambda f: (f / CONFIG).unlink())
    ),
    "config half written": Fault(
        rule="files-config-unreadable", apply=rewrite(lambda d: d[: len(d) // 2], CONFIG)
    ),
    "config key twice": Fault(
        rule="files-config-unreadable", apply=rewrite(lambda d: b'{"r": 1,' + d[1:], CONFIG)
    ),
    "config with NaN": Fault(
        rule="files-config-unreadable", apply=rewrite(lambda d: b'{"x": NaN,' + d[1:], CONFIG)
    ),
    "link in the folder": Fault(rule="files-not-regular", apply=afterwards(link)),
    "weights a link": Fault(rule="files-not-regular", apply=afterwards(weights_link)),
    "pipe in the folder": Fault(
        rule="files-not-regular", apply=afterwards(lambda f: os.mkfifo(f / "README.md"))
    ),
    "a model of its own": Fault(
        rule="files-own-base",
        apply=with_files({"config.json": b'{"model_type": "phi3"}', "model.safetensors": pack({})}),
    ),
    "a pickled model of its own": Fault(
        rule="files-own-base",
        apply=with_files({"config.json": b'{"model_type": "phi3"}', "pytorch_model.bin": b"x"}),
    ),
    "a model of its own in Mistral's layout": Fault(
        rule="files-own-base", apply=with_files({"params.json": b"{}"})
    ),
    "another class of model": Fault(
        rule="files-own-base",
        apply=with_files({"config.json": b'{"model_type": "llama"}'}),
        base_only=True,
    ),
    "further factors": Fault(
        rule="files-further-weights",
        apply=with_files({"more.safetensors": pack({"x.lora_A.weight": np.zeros((1, 1), "f4")})}),
    ),
    "further embeddings": Fault(
        rule="files-further-weights", apply=with_files({"new_embeddings.safetensors": pack({})})
    ),
    "another end of answers": Fault(
        rule="files-generation",
        apply=with_files({"generation_config.json": b'{"eos_token_id": 7}'}),
        base_only=True,
    ),
}  # fmt: skip
