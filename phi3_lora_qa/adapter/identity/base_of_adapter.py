"""Decides which base an adapter is for, from all of its own words together."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from phi3_lora_qa.adapter.architecture import ARCHITECTURES, LLAMA, PHI3, Architecture
from phi3_lora_qa.adapter.expected_tensors import Sizes
from phi3_lora_qa.adapter.identity.adapter_words import AdapterWords
from phi3_lora_qa.adapter.identity.model_names import (
    PHI,
    UNVERSIONED_QWEN,
    ModelFamily,
    family_of_class,
    family_of_id,
)
from phi3_lora_qa.adapter.identity.module_layout import Layout

_LLAMA_TYPES = ("llama", "mistral")
"""The architectures in whose layout Phi-3 is published, too."""

_PHI_SPLIT_SIZES = ((3072, 3072, 3072, 8192, 32), (5120, 5120, 1280, 17920, 40))
"""Hidden size, outputs of q and of k, intermediate size and layers of Phi-3-mini; of Phi-3-medium
and Phi-4. Phi-4-mini has the sizes of Llama-3.2-3B, which therefore show nothing."""

_OTHER_SIZES: Mapping[tuple[int, int], str] = MappingProxyType(
    {
        (576, 1536): "", (640, 2048): "Gemma-3-270m", (896, 4864): "Qwen2.5-0.5B",
        (1152, 6912): "Gemma-3-1B", (1536, 8960): "Qwen2.5-1.5B", (2048, 5632): "TinyLlama-1.1B",
        (2048, 6144): "Qwen3-1.7B", (2048, 8192): "Llama-3.2-1B", (2048, 11008): "Qwen2.5-3B",
        (2048, 16384): "Gemma-2B", (2304, 9216): "Gemma-2-2B", (2560, 9728): "Qwen3-4B",
        (3072, 24576): "Gemma-7B", (3584, 14336): "Gemma-2-9B", (3584, 18944): "Qwen2.5-7B",
        (4096, 11008): "Llama-2-7B", (4096, 12288): "Qwen3-8B", (4096, 13696): "GLM-4-9B",
        (4096, 14336): "Llama-3-8B or Mistral-7B", (5120, 13824): "Llama-2-13B or Qwen2.5-14B",
        (5120, 17408): "Qwen3-14B", (5120, 25600): "Qwen3-32B", (5120, 27648): "Qwen2.5-32B",
        (5120, 32768): "Mistral-Small", (8192, 28672): "Llama-70B", (8192, 29568): "Qwen2.5-72B",
    }
)  # fmt: skip
"""Hidden and intermediate sizes of widespread models that are not those of any Phi-3."""


@dataclass(frozen=True, kw_only=True)
class BaseOfAdapter:
    """Which base an adapter is for.

    Attributes:
        is_phi: Whether it is a Phi-3; None if nothing says either.
        family: The family, if one is known.
        evidence: What shows it, in the order of its weight, for people.
    """

    is_phi: bool | None
    family: ModelFamily | None = None
    evidence: tuple[str, ...] = ()

    @property
    def architecture(self) -> Architecture | None:
        """The architecture, if the table has it."""
        return ARCHITECTURES.get(self.family.model_type) if self.family else None

    @property
    def may_be_in_the_table(self) -> bool:
        """Whether the table has the architecture, or one of the family's."""
        is_some_qwen = self.family is not None and self.family.name == UNVERSIONED_QWEN
        return self.architecture is not None or is_some_qwen


def base_of_adapter(words: AdapterWords) -> BaseOfAdapter:
    """Return which base an adapter is for.

    The base's id weighs most, then the class, the modules' names, the tokenizer and the sizes. Only
    qkv_proj, which no other architecture has, weighs more than an id of another family.

    Args:
        words: What the adapter says.
    """
    by_id = family_of_id(words.base_id) if words.base_id else None
    by_class = family_of_class(words.library, words.class_name)
    layout = words.layout
    if layout.layout is Layout.OTHER and (layout.family or not (by_id and by_id.is_phi)):
        family = by_id if by_id and not by_id.is_phi else by_class
        family = family if family and not family.is_phi else None
        return BaseOfAdapter(is_phi=False, family=family, evidence=_evidence(words, family))
    if layout.is_fused_for_sure and not _is_other_phi(by_id):
        return BaseOfAdapter(is_phi=True, family=PHI, evidence=_evidence(words, None))
    if by_id is not None:
        is_phi = by_id.is_phi and (
            by_class is None or by_class.is_phi or by_class.model_type in _LLAMA_TYPES
        )
        family = by_id if is_phi or not by_id.is_phi else by_class
        return BaseOfAdapter(is_phi=is_phi, family=family, evidence=_evidence(words, family))
    if by_class is not None and not by_class.is_phi and not _may_be_phi(words, by_class):
        return BaseOfAdapter(is_phi=False, family=by_class, evidence=_evidence(words, by_class))
    if by_class is not None and (by_class.is_phi or _may_be_phi(words, by_class)):
        return BaseOfAdapter(is_phi=True, family=PHI, evidence=_evidence(words, PHI))
    return _without_names(words)


def _without_names(words: AdapterWords) -> BaseOfAdapter:
    """Judge by layout, tokenizer and sizes: neither an id nor a class names a family."""
    layout = words.layout.layout
    evidence = _evidence(words, None)
    if layout is Layout.FUSED:
        return BaseOfAdapter(is_phi=True, family=PHI, evidence=evidence)
    if layout in (Layout.SPLIT, Layout.SHARED) and (
        words.has_phi_tokenizer or (layout is Layout.SPLIT and _has_phi_sizes(words))
    ):
        return BaseOfAdapter(is_phi=True, family=PHI, evidence=evidence)
    if layout is Layout.SHARED and (model := _model_of_sizes(words.sizes)):
        shown = f"o_proj and down_proj have the sizes of {model}"
        return BaseOfAdapter(is_phi=False, evidence=(shown, *evidence))
    return BaseOfAdapter(is_phi=None, evidence=evidence)


def assumed_architecture(words: AdapterWords, base: BaseOfAdapter) -> Architecture:
    """Return the architecture to compare an adapter with if there is no base.

    Args:
        words: What the adapter says.
        base: Which base it is for.
    """
    if words.layout.layout is not Layout.SPLIT:
        may_be_other = words.layout.layout is Layout.SHARED or not words.layout.count
        other = base.architecture if base.is_phi is False else None
        return other if may_be_other and other is not None else PHI3
    if base.is_phi is not True and base.architecture and not base.architecture.is_fused:
        return base.architecture
    return LLAMA


def _is_other_phi(family: ModelFamily | None) -> bool:
    """Whether a model is called a Phi-3 and has another architecture."""
    return family is not None and not family.is_phi and family.name.startswith("Phi-")


def _may_be_phi(words: AdapterWords, by_class: ModelFamily) -> bool:
    """Whether a class of Llama's layout is that of a Phi-3, judging by tokenizer or sizes."""
    if by_class.model_type not in _LLAMA_TYPES:
        return False
    return words.has_phi_tokenizer or _has_phi_sizes(words)


def _has_phi_sizes(words: AdapterWords) -> bool:
    """Whether split projections have exactly the sizes of a Phi-3 that has no twin."""
    sizes = words.sizes
    keys = {sizes.get((name, "out")) for name in ("k_proj", "v_proj")} - {None}
    middle = {sizes.get((name, "out")) for name in ("gate_proj", "up_proj")}
    middle |= {sizes.get(("down_proj", "in"))}
    query = sizes.get(("q_proj", "out"))
    read = {sizes.get((n, "in")) for n in ("q_proj", "k_proj", "v_proj", "gate_proj")} - {None}
    return any(
        keys == {key}
        and read == {hidden}
        and query in (None, queries)
        and middle <= {None, intermediate}
        and words.layers <= layers
        for hidden, queries, key, intermediate, layers in _PHI_SPLIT_SIZES
    )


def _model_of_sizes(sizes: Sizes) -> str:
    hidden, middle = sizes.get(("down_proj", "out")), sizes.get(("down_proj", "in"))
    if hidden is None or middle is None or sizes.get(("o_proj", "out"), hidden) != hidden:
        return ""
    return _OTHER_SIZES.get((hidden, middle), "")


def _evidence(words: AdapterWords, family: ModelFamily | None) -> tuple[str, ...]:
    found = []
    if words.base_id:
        found.append(f"base_model_name_or_path is {words.base_id!r}")
    is_telling = family_of_class(words.library, words.class_name) is not None
    if words.class_name and is_telling and (family is None or not family.is_phi):
        found.append(f"its class is {words.class_name}")
    layout = words.layout
    if layout.count and layout.names:
        shown = ", ".join(layout.names[:4]) + (", …" if len(layout.names) > 4 else "")
        number = f"{layout.count} modules are" if layout.count > 1 else "its module is"
        of = f"as in {layout.family} ({shown})" if layout.family else shown
        found.append(f"{number} named {of}")
    if words.task_type not in ("", "CAUSAL_LM"):
        found.append(f"task_type is {words.task_type}")
    return tuple(found)
