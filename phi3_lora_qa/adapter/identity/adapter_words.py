"""What an adapter itself says about its base: names, classes, modules, sizes and tokenizer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.adapter.architecture import FUSED_OF
from phi3_lora_qa.adapter.expected_tensors import Sizes
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.module_layout import ModuleLayout, module_layout
from phi3_lora_qa.adapter.phi_family import has_phi_markers
from phi3_lora_qa.adapter.tensor_names import FACTORS, PREFIX, BadKey, TensorKey
from phi3_lora_qa.errors import AdapterError, shortage


@dataclass(frozen=True, kw_only=True)
class AdapterWords:
    """The words of an adapter.

    Attributes:
        base_id: base_model_name_or_path; empty if it is missing.
        library: parent_library of auto_mapping; empty if it is missing.
        class_name: base_model_class of auto_mapping; empty if it is missing.
        task_type: The task type; empty if it is missing.
        layout: The layout of the modules that have factors.
        sizes: The inputs and outputs of the kinds of modules.
        layers: The number of layers that have factors.
        idle_parts: The split projections that the config targets, if none of them has factors:
            it was then trained on a base without them.
        folder: The adapter's folder, with its tokenizer.
    """

    base_id: str
    library: str
    class_name: str
    task_type: str
    layout: ModuleLayout
    sizes: Sizes
    layers: int
    idle_parts: tuple[str, ...]
    folder: AdapterFolder

    @property
    def has_phi_tokenizer(self) -> bool:
        """Whether the tokenizer in the folder has the chat tokens of a Phi-3 or Phi-4."""
        try:
            return has_phi_markers(_Tokenizer(folder=self.folder))
        except AdapterError as error:
            if short := shortage(error):
                raise short from error
            return False


@dataclass(frozen=True, kw_only=True)
class _Tokenizer:
    folder: AdapterFolder

    def read_bytes(self, name: str, max_bytes: int, /) -> bytes | None:
        entry = self.folder.file(name)
        if entry is None or entry.size > max_bytes:
            return None
        return self.folder.read_bytes(name, max_bytes)


def read_words(
    folder: AdapterFolder,
    config: Mapping[str, Any],
    keys: Iterable[TensorKey],
    bad_keys: Iterable[BadKey],
    sizes: Sizes,
) -> AdapterWords:
    """Return the words of an adapter.

    Args:
        folder: Its folder.
        config: The content of its adapter_config.json; the values may have any type.
        keys: The tensors whose names follow peft's grammar.
        bad_keys: The others; those whose correction is known count under the corrected name.
        sizes: The sizes of the kinds of modules, from the tensors.
    """
    mapping = config.get("auto_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    modules = {key.module for key in keys if key.part in FACTORS}
    modules |= {_module_of(bad.corrected) for bad in bad_keys if bad.corrected}
    numbers = [part for name in modules for part in name.split(".") if part.isdecimal()]
    return AdapterWords(
        base_id=_text(config.get("base_model_name_or_path")),
        library=_text(mapping.get("parent_library")),
        class_name=_text(mapping.get("base_model_class")),
        task_type=_text(config.get("task_type")),
        layout=module_layout(modules),
        sizes=sizes,
        layers=len(set(numbers)),
        idle_parts=_idle_parts(config.get("target_modules"), modules),
        folder=folder,
    )


def _idle_parts(targets: Any, modules: Iterable[str]) -> tuple[str, ...]:
    texts = [name for name in targets if isinstance(name, str)] if isinstance(targets, list) else []
    named = {name for name in texts if name in FUSED_OF}
    has_factors = any(module.rpartition(".")[2] in FUSED_OF for module in modules)
    return () if has_factors else tuple(sorted(named))


def _module_of(name: str) -> str:
    return name.removeprefix(PREFIX).partition(".lora_")[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
