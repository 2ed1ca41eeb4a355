"""The format of one folder and the base of its adapter, each decided once."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from phi3_lora_qa.adapter.architecture import Architecture
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.expected_tensors import majority_sizes
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.adapter_format import recognize_format
from phi3_lora_qa.adapter.identity.adapter_words import AdapterWords, read_words
from phi3_lora_qa.adapter.identity.base_fault import BaseFault, base_fault
from phi3_lora_qa.adapter.identity.base_of_adapter import (
    BaseOfAdapter,
    assumed_architecture,
    base_of_adapter,
)
from phi3_lora_qa.adapter.identity.foreign_format import ForeignFormat
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile
from phi3_lora_qa.adapter.tensor_names import parse_keys


class AdapterIdentity:
    """What a folder is, and which base its adapter is for.

    Attributes:
        folder: The folder.
        raw_config: The content of adapter_config.json; None if it cannot be read.
        config: The parsed config; None if it is invalid.
        weights: The header of the weights; None if it cannot be read.
        base: The base of the check, if there is one.
        any_base: Whether the user accepts other bases than a Phi-3.
    """

    def __init__(  # noqa: PLR0913 - what is read together
        self,
        *,
        folder: AdapterFolder,
        raw_config: Mapping[str, Any] | None,
        config: LoraAdapterConfig | None,
        weights: SafetensorsFile | None,
        base: BaseFiles | None,
        any_base: bool,
    ) -> None:
        self.folder, self.raw_config, self.config = folder, raw_config, config
        self.weights, self.base, self.any_base = weights, base, any_base

    @cached_property
    def foreign_format(self) -> ForeignFormat | None:
        """What the folder is instead of a LoRA adapter of PEFT; None if it is, or may be, one."""
        names = tuple(self.weights.tensors) if self.weights else ()
        return recognize_format(self.folder, self.raw_config, names)

    @cached_property
    def words(self) -> AdapterWords:
        """What the adapter says about its base."""
        infos = self.weights.tensors if self.weights else {}
        keys, bad_keys = parse_keys(infos)
        blocks = self.config.use_bdlora if self.config else None
        sizes = majority_sizes(keys.values(), infos, blocks)
        return read_words(self.folder, self.raw_config or {}, keys.values(), bad_keys, sizes)

    @cached_property
    def base_of_adapter(self) -> BaseOfAdapter:
        """Which base the adapter is for."""
        return base_of_adapter(self.words)

    @cached_property
    def base_fault(self) -> BaseFault | None:
        """Why the adapter does not fit the base; None if nothing speaks against it."""
        return base_fault(self.words, self.base_of_adapter, self.base, any_base=self.any_base)

    @cached_property
    def assumed_architecture(self) -> Architecture:
        """The architecture to compare the adapter with if there is no base."""
        return assumed_architecture(self.words, self.base_of_adapter)
