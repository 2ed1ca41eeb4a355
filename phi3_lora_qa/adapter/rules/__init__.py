"""The rules, one module for each family. Importing this package registers them all.

A rule is a function that takes the `LintContext` and yields a `Violation` for each fault, decorated
with `rule`. To add one: write it into its family's module, add a fault to tests/adapter/faults that
it must find, and a healthy variant if it could ever be wrong.
"""

# In the order in which a family's rules are run and shown.
# isort: off
from phi3_lora_qa.adapter.rules import (
    base_weights,
    config,
    duplicate_modules,
    corruption,
    serving,
    folder_files,
    internal,
    loader_files,
    manifest,
    template_rendering,
    saved_modules,
    target_modules,
    template_files,
    tensor_layout,
    tokenizer_files,
    tokenizer_against_base,
    tokenizer_behaviour,
    factor_values,
    non_factor_weights,
)
# isort: on

__all__ = [  # noqa: RUF022 - the order of a reader
    "base_weights",
    "config",
    "duplicate_modules",
    "corruption",
    "serving",
    "folder_files",
    "internal",
    "loader_files",
    "manifest",
    "template_rendering",
    "saved_modules",
    "target_modules",
    "template_files",
    "tensor_layout",
    "tokenizer_files",
    "tokenizer_against_base",
    "tokenizer_behaviour",
    "factor_values",
    "non_factor_weights",
]
