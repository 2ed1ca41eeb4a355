"""The rules, one module for each family. Importing this package registers them all.

A rule is a function that takes the `Subject` and yields a `Hit` for each fault, decorated with
`rule`. To add one: write it into its family's module, add a fault to tests/adapter/faults that it
must find, and a healthy variant if it could ever be wrong.
"""

from phi3_lora_qa.adapter.rules import (
    base,
    config,
    copies,
    damage,
    export,
    files,
    linter,
    loaders,
    manifest,
    rendering,
    replaced,
    targets,
    templates,
    tensors,
    tokenizer,
    tokenizer_base,
    tokenizer_trial,
    values,
    whole,
)

__all__ = [
    "base",
    "config",
    "copies",
    "damage",
    "export",
    "files",
    "linter",
    "loaders",
    "manifest",
    "rendering",
    "replaced",
    "targets",
    "templates",
    "tensors",
    "tokenizer",
    "tokenizer_base",
    "tokenizer_trial",
    "values",
    "whole",
]
