"""Derives from a config the exact set of tensors that an adapter must contain: names and shapes.

With a base, its modules are used. Without a base, the modules are those of the architecture that
the file seems to be for, with as many layers as the file and the config mention, and the majority
of the tensors determines the sizes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from phi3_lora_qa.adapter.architecture import PHI3, Architecture
from phi3_lora_qa.adapter.base_modules import BaseModule, ModuleKind, skeleton
from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.lora_variants import BlockDiagonal
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.adapter.safetensors_file import TensorInfo
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import Part, TensorKey, tensor_name

Shape = tuple[int | None, ...]
Sizes = Mapping[tuple[str, str], int]
"""Sizes by (last part of the module name, ``in`` or ``out``)."""

MAX_LAYERS = 256
"""More than any Phi-3 has; a tensor of a later layer belongs to no module."""

PHI3_MEDIUM_LAYERS = 40
"""Layers of the largest Phi-3 (medium). A larger index in layers_to_transform implies no layer:
peft ignores an index that the base does not have.
"""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,4})(?:\.|$)")
TABLES = ("embed_tokens", "lm_head")
"""The modules that have one row per token."""


@dataclass(frozen=True, kw_only=True)
class ExpectedTensor:
    """One tensor that is required, or allowed if ``optional``. A size of None matches any size."""

    name: str
    module: str
    part: Part
    shape: Shape
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class ExpectedLayout:
    """What a config implies for a base.

    Attributes:
        modules: The modules of the base.
        targeted: The adapted modules.
        saved: The modules that are saved whole.
        adapted_twice: Modules that both target_modules and target_parameters adapt.
        tensors: The expected tensors by name.
    """

    modules: Mapping[str, BaseModule]
    targeted: Mapping[str, BaseModule]
    saved: Mapping[str, BaseModule]
    adapted_twice: tuple[str, ...]
    tensors: Mapping[str, ExpectedTensor]


def derive_expected_tensors(
    config: LoraAdapterConfig,
    matching: Matching,
    modules: Mapping[str, BaseModule],
    *,
    tied: bool | None,
) -> ExpectedLayout:
    """Derive the tensors of an adapter with this config for a base with these modules.

    Args:
        config: The adapter's config.
        matching: The compiled patterns of the config.
        modules: The base's modules, or those of the Phi-3 that the file seems to be for.
        tied: Whether the base ties its two tables; None if there is no base.
    """
    by_module = {
        name: module
        for name, module in modules.items()
        if matching.targets(name, is_linear=_all_linear(module))
    }
    by_parameter = {
        name: module for name, module in modules.items() if matching.targets_weight(name)
    }
    targeted = by_module | by_parameter
    saved = {name: module for name, module in modules.items() if _is_saved(name, matching)}
    tensors = [
        *(t for m in targeted.values() for t in _lora_tensors(m, config, matching.rank(m.name))),
        *(t for m in saved.values() for t in _saved_tensors(m)),
        *_token_tensors(config, modules, tied=tied),
        *_tied_tensors(config, modules, saved, tied=tied),
    ]
    return ExpectedLayout(
        modules=modules,
        targeted=MappingProxyType(targeted),
        saved=MappingProxyType(saved),
        adapted_twice=tuple(name for name in by_module if name in by_parameter),
        tensors=MappingProxyType(_by_name(tensors)),
    )


def _by_name(tensors: Iterable[ExpectedTensor]) -> dict[str, ExpectedTensor]:
    """Index by name; the first entry wins: a module's own tensor goes before a tied table's."""
    found: dict[str, ExpectedTensor] = {}
    for tensor in tensors:
        found.setdefault(tensor.name, tensor)
    return found


def assumed_modules(
    config: LoraAdapterConfig,
    keys: Iterable[TensorKey],
    infos: Mapping[str, TensorInfo],
    architecture: Architecture = PHI3,
) -> Mapping[str, BaseModule]:
    """Return the modules to compare with if there is no base.

    Args:
        config: The adapter's config.
        keys: The tensors of the file.
        infos: The header of the file.
        architecture: The architecture that the adapter is for.
    """
    known = list(keys)
    texts = [key.module for key in known]
    if not isinstance(config.target_modules, str):
        texts.extend(config.target_modules)
    layers = [int(found[1]) for text in texts if (found := _LAYER.search(text))]
    layers.extend(index for index in config.layers_to_transform or () if index < PHI3_MEDIUM_LAYERS)
    count = 1 + max((index for index in layers if index < MAX_LAYERS), default=0)
    sizes = majority_sizes(known, infos, config.use_bdlora)
    return MappingProxyType(
        {
            name: replace(module, inputs=sizes.get((module.leaf, "in")),
                          outputs=sizes.get((module.leaf, "out")))
            for name, module in skeleton(architecture, count).items()
        }
    )  # fmt: skip


def majority_sizes(
    keys: Iterable[TensorKey],
    infos: Mapping[str, TensorInfo],
    blocks: BlockDiagonal | None = None,
) -> Sizes:
    """Return the most common input and output size of each kind of module.

    Args:
        keys: The tensors of the file.
        infos: The header of the file.
        blocks: The config's block-diagonal factors, whose stored size is a part of the module's.
    """
    votes: dict[tuple[str, str], Counter[int]] = {}
    for key in keys:
        shape = infos[key.name].shape
        if len(shape) != 2 or 0 in shape:
            continue
        leaf = key.module.rpartition(".")[2]
        if key.part in (Part.A, Part.EMBEDDING_A):
            parts = blocks.blocks if blocks and blocks.splits_a(key.module) else 1
            votes.setdefault((leaf, "in"), Counter())[parts * shape[1]] += 1
        elif key.part in (Part.B, Part.EMBEDDING_B):
            votes.setdefault((leaf, "out"), Counter())[shape[0]] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in votes.items()}


def _all_linear(module: BaseModule) -> bool:
    return module.kind is ModuleKind.LINEAR and module.name != "lm_head"


def _is_saved(name: str, matching: Matching) -> bool:
    """Whether modules_to_save names the module, or a container that it is in."""
    if not matching.config.modules_to_save:
        return False
    parts = name.split(".")
    return any(matching.saves(".".join(parts[:end])) for end in range(1, len(parts) + 1))


def _lora_tensors(module: BaseModule, config: LoraAdapterConfig, r: int) -> list[ExpectedTensor]:
    inputs, outputs = module.inputs, module.outputs
    if module.kind is ModuleKind.NORM:
        return []
    if module.kind is ModuleKind.EMBEDDING:
        shapes: dict[Part, Shape] = {Part.EMBEDDING_A: (r, inputs), Part.EMBEDDING_B: (outputs, r)}
        table: Shape = (inputs, outputs)
    else:
        shapes = _linear_shapes(module, config, r)
        table = (outputs, inputs)
    if config.use_dora:
        shapes[Part.MAGNITUDE] = (outputs,)
    found = [_expected(module, part, shape) for part, shape in shapes.items()]
    if module.leaf in TABLES:
        # peft also saves the base's table when a table is adapted.
        found.append(_expected(module, Part.BASE_WEIGHT, table, optional=True))
    return found


def _linear_shapes(module: BaseModule, config: LoraAdapterConfig, r: int) -> dict[Part, Shape]:
    """Return the shapes of a linear module's factors, and of the parts of its LoRA variant."""
    inputs, outputs = module.inputs, module.outputs
    shapes: dict[Part, Shape] = {Part.A: (r, inputs), Part.B: (outputs, r)}
    blocks, groups, samples = config.use_bdlora, config.velora_config, config.monteclora_config
    if blocks and blocks.splits_a(module.name):
        shapes[Part.A] = (r, _part_of(inputs, blocks.blocks))
    elif blocks and blocks.splits_b(module.name):
        shapes[Part.B] = (outputs, _part_of(r, blocks.blocks))
    if config.lora_bias:
        shapes[Part.B_BIAS] = (outputs,)
    if groups:
        # peft pads the inputs with zeros to a multiple of the number of groups.
        shapes[Part.VELORA] = (None if inputs is None else -(-inputs // groups),)
    if samples:
        shapes |= {
            Part.EXPERTS: (samples,),
            Part.EXPERTS_PRIOR: (samples,),
            Part.VARIANCE_PRIOR: (r, r),
            Part.DEVIATION_PRIOR: (r,),
        }
    return shapes


def _part_of(size: int | None, count: int) -> int | None:
    """Return the size of one of ``count`` equal parts; 0, which no file has, if it is fractional.

    peft rejects a size that is not divisible.
    """
    return None if size is None else size // count if size % count == 0 else 0


def _token_tensors(
    config: LoraAdapterConfig, modules: Mapping[str, BaseModule], *, tied: bool | None
) -> list[ExpectedTensor]:
    """Return the trained rows; two tied tables with the same tokens share one tensor."""
    found: dict[str, ExpectedTensor] = {}
    table = config.trainable_token_indices
    for name, tokens in table.items():
        for module in modules.values():
            if not matches_suffix(module.name, name):
                continue
            width = module.outputs if module.kind is ModuleKind.EMBEDDING else module.inputs
            shares = module.leaf == "lm_head" and any(
                tokens == other for key, other in table.items() if key != name
            )
            if not (shares and tied):
                found[module.name] = _expected(
                    module, Part.TOKENS, (len(tokens), width), optional=shares and tied is None
                )
    return list(found.values())


def _tied_tensors(
    config: LoraAdapterConfig,
    modules: Mapping[str, BaseModule],
    saved: Mapping[str, BaseModule],
    *,
    tied: bool | None,
) -> list[ExpectedTensor]:
    """Return both tied tables: ensure_weight_tying makes peft save both if one is trained whole."""
    both = {m.leaf: m for m in modules.values() if m.leaf in TABLES}
    trained = [m for m in saved.values() if m.leaf in TABLES]
    if not config.ensure_weight_tying or not trained or tied is False:
        return []
    return [
        _expected(module, tensor.part, tensor.shape, optional=tied is None)
        for module in both.values()
        for tensor in _saved_tensors(module)
    ]


def _saved_tensors(module: BaseModule) -> list[ExpectedTensor]:
    inputs, outputs = module.inputs, module.outputs
    shape: Shape = {
        ModuleKind.LINEAR: (outputs, inputs),
        ModuleKind.EMBEDDING: (inputs, outputs),
        ModuleKind.NORM: (outputs,),
    }[module.kind]
    found = [_expected(module, Part.WEIGHT, shape)]
    return [*found, _expected(module, Part.BIAS, (outputs,))] if module.bias else found


def _expected(
    module: BaseModule, part: Part, shape: Shape, *, optional: bool = False
) -> ExpectedTensor:
    return ExpectedTensor(
        name=tensor_name(module.name, part),
        module=module.name,
        part=part,
        shape=shape,
        optional=optional,
    )
