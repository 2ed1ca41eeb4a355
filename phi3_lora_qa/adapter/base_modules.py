"""The modules of a base model: their kinds and sizes, from its config or from its weights."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from phi3_lora_qa.adapter.architecture import Architecture, architecture_of

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class ModuleKind(StrEnum):
    """The kind of a base module; it determines the shapes of the LoRA factors."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    NORM = "norm"


@dataclass(frozen=True, kw_only=True)
class BaseModule:
    """A module with a weight. Sizes are None if there is no base.

    The weight of a linear module has the shape (outputs, inputs), that of an embedding (inputs,
    outputs), and that of a norm (outputs,).
    """

    name: str
    kind: ModuleKind
    inputs: int | None = None
    outputs: int | None = None
    bias: bool = False

    @property
    def leaf(self) -> str:
        """The last part of the name, such as ``qkv_proj``."""
        return self.name.rpartition(".")[2]


def skeleton(architecture: Architecture, layers: int) -> Mapping[str, BaseModule]:
    """Return the modules of a model with this number of layers, without sizes."""
    kinds = dict.fromkeys(architecture.linears, ModuleKind.LINEAR)
    kinds |= dict.fromkeys(architecture.norms, ModuleKind.NORM)
    inner = {f"model.layers.{i}.{n}": kind for i in range(layers) for n, kind in kinds.items()}
    named = {
        EMBEDDING: ModuleKind.EMBEDDING,
        **inner,
        "model.norm": ModuleKind.NORM,
        HEAD: ModuleKind.LINEAR,
    }
    return MappingProxyType({n: BaseModule(name=n, kind=kind) for n, kind in named.items()})


def modules_from_config(config: Mapping[str, Any]) -> Mapping[str, BaseModule]:
    """Return the modules of the model that a config.json describes.

    Raises:
        KeyError, ValueError: The architecture is unknown, or a size is missing or invalid.
    """
    architecture = architecture_of(config)
    if architecture is None:
        raise ValueError(f"unknown model type {config.get('model_type')!r}")
    sizes = _sizes(config)
    hidden = sizes["o_proj"][1]
    biased = _biased(architecture, config)
    return MappingProxyType(
        {
            name: BaseModule(
                name=name,
                kind=module.kind,
                inputs=sizes.get(module.leaf, (hidden, hidden))[0],
                outputs=sizes.get(module.leaf, (hidden, hidden))[1],
                bias=module.leaf in biased,
            )
            for name, module in skeleton(architecture, _size(config, "num_hidden_layers")).items()
        }
    )


def modules_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], *, tied: bool
) -> Mapping[str, BaseModule]:
    """Return the modules whose weights have these shapes, by the tensors' names.

    Args:
        shapes: The shapes of the tensors.
        tied: Whether the head is the embedding table.

    Raises:
        ValueError: There is no embedding table.
    """
    modules = {}
    for name, shape in shapes.items():
        module, _, part = name.rpartition(".")
        if part != "weight" or len(shape) not in (1, 2):
            continue
        embedding = module.endswith("embed_tokens")
        kind = ModuleKind.EMBEDDING if embedding else ModuleKind.LINEAR
        first, last = shape[0], shape[-1]
        modules[module] = BaseModule(
            name=module,
            kind=kind if len(shape) == 2 else ModuleKind.NORM,
            inputs=first if embedding else last,
            outputs=last if embedding else first,
            bias=f"{module}.bias" in shapes,
        )
    table = modules.get(EMBEDDING)
    if not table:
        raise ValueError(f"the weights have no {EMBEDDING}")
    if tied and HEAD not in modules:
        modules[HEAD] = BaseModule(
            name=HEAD, kind=ModuleKind.LINEAR, inputs=table.outputs, outputs=table.inputs
        )
    return MappingProxyType(modules)


def first_mismatch(modules: Mapping[str, BaseModule], config: Mapping[str, Any]) -> str:
    """Say in which module a model's weights differ from its config.json; empty if in none.

    The number of layers, the first layer and the tables are compared. transformers would initialize
    what is missing, in the size that the config says, which may be far more than the machine's
    memory.

    Args:
        modules: The modules that the weights have.
        config: The content of the config.json.

    Raises:
        KeyError, ValueError: As `modules_from_config`.
    """
    for name, described in modules_from_config({**config, "num_hidden_layers": 1}).items():
        found = modules.get(name)
        if found is None:
            return f"the weights have no {name}"
        wanted, actual = _shape(described), _shape(found)
        if described.kind is not ModuleKind.NORM and wanted != actual:
            return f"{name} is {wanted} in config.json and {actual} in the weights"
    described_layers, layers = _size(config, "num_hidden_layers"), _layers(modules)
    if layers != described_layers:
        return f"config.json has {described_layers} layers, and the weights have {layers}"
    return ""


def _layers(modules: Mapping[str, BaseModule]) -> int:
    found = (_LAYER.match(name) for name in modules)
    return len({match[1] for match in found if match})


def _shape(module: BaseModule) -> str:
    """Return the shape of a module's matrix, for people."""
    is_table = module.kind is ModuleKind.EMBEDDING
    first, last = (module.inputs, module.outputs) if is_table else (module.outputs, module.inputs)
    return f"{first}x{last}"


def _sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of every module, by the last part of its name."""
    hidden, middle = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads, vocabulary = _size(config, "num_attention_heads"), _size(config, "vocab_size")
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    keys = (hidden, groups * head)
    return {
        "qkv_proj": (hidden, (heads + 2 * groups) * head),
        "q_proj": (hidden, heads * head),
        "k_proj": keys,
        "v_proj": keys,
        "o_proj": (heads * head, hidden),
        "gate_up_proj": (hidden, 2 * middle),
        "gate_proj": (hidden, middle),
        "up_proj": (hidden, middle),
        "down_proj": (middle, hidden),
        "q_norm": (head, head),
        "k_norm": (head, head),
        "embed_tokens": (vocabulary, hidden),
        "lm_head": (hidden, vocabulary),
    }


def _biased(architecture: Architecture, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the last parts of the names of the modules that have a bias."""
    if architecture.attention_bias is not None:
        return ("q_proj", "k_proj", "v_proj") if architecture.attention_bias else ()
    attention = ("qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj")
    mlp = ("gate_proj", "up_proj", "down_proj")
    return (attention if config.get("attention_bias") else ()) + (
        mlp if config.get("mlp_bias") else ()
    )


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if type(value) is not int or not 0 < value < 1 << 24 or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}")
    return value
