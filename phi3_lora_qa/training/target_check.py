"""Target modules against the base: a name that matches nothing trains nothing, and says nothing.

Phi-3 fuses q, k and v into ``qkv_proj``, and gate and up into ``gate_up_proj``. The lists that the
source's notebooks carry name the split layers of Llama; PEFT skips what it does not find, and a
third of the parameters is trained without a word (https://github.com/microsoft/PhiCookBook/issues/185,
https://github.com/huggingface/peft/issues/1959).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.training.strict_values import nearest

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""The split names that other architectures use, and the fused layer that holds each in Phi-3."""

_PHI3_LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def phi3_modules(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the full names of the layers that LoRA can target, from a Phi-3 config.json."""
    layers = config.get("num_hidden_layers")
    count = layers if isinstance(layers, int) else 0
    return tuple(f"model.layers.{i}.{name}" for i in range(count) for name in _PHI3_LINEARS)


def linear_names(model: Any) -> list[str]:
    """Return the full names of the linear layers of a plain model, without the output head."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module is not head
    ]


def check_targets(targets: str | Sequence[str], modules: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that the targets match, or say which names match none.

    Args:
        targets: PEFT's target_modules: "all-linear", a regular expression, or names, each of which
            matches a module of that full name or one that ends with it after a dot.
        modules: Full names of the linear layers of the base, without lm_head.

    Raises:
        InputError: A name that no layer has, or a pattern that matches none, with the right names.
    """
    if targets == "all-linear":
        return tuple(modules)
    if isinstance(targets, str):
        return _check_pattern(targets, modules)
    if not targets:
        raise InputError(f"target_modules is empty; {_right(modules)}")
    missed = [name for name in targets if not _matches(name, modules)]
    if missed:
        raise InputError(_complaint(missed, targets, modules))
    return tuple(
        module for module in modules if any(matches_suffix(module, name) for name in targets)
    )


def _check_pattern(pattern: str, modules: Sequence[str]) -> tuple[str, ...]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"target_modules '{escape(pattern, 80)}' is no regular expression ({error}); "
            f"{_right(modules)}"
        ) from error
    found = tuple(module for module in modules if compiled.fullmatch(module))
    if not found:
        raise InputError(
            f"target_modules '{escape(pattern, 80)}' matches no layer of the base; "
            f"{_right(modules)}"
        )
    # A pattern over split names can still match o_proj and down_proj, and so hide what it misses.
    split = [
        name
        for name in FUSED
        if re.search(rf"(?<![A-Za-z0-9_]){name}\b", pattern) and not _matches(name, modules)
    ]
    if split:
        raise InputError(_complaint(split, split, modules))
    return found


def _complaint(missed: Sequence[str], targets: Sequence[str], modules: Sequence[str]) -> str:
    names = ", ".join(escape(str(name), 60) for name in missed)
    text = f"target_modules: no linear layer of the base is called {names}"
    ours = _last_parts(modules)
    fused = {name: FUSED[name] for name in missed if FUSED.get(name) in ours}
    if fused:
        mended = [FUSED.get(name, name) if name in missed else name for name in targets]
        wanted = [name for name in dict.fromkeys(mended) if _matches(name, modules)]
        held = ", ".join(f"{old} in {new}" for old, new in fused.items())
        return f"{text}; Phi-3 holds {held}: use target_modules = {_toml(wanted)}"
    if len(missed) == 1:
        return f"{text}; {nearest(missed[0], ours)}"
    return f"{text}; {_right(modules)}"


def _right(modules: Sequence[str]) -> str:
    return f'use "all-linear", or names of {_toml(_last_parts(modules))}'


def _last_parts(modules: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(module.rpartition(".")[2] for module in modules))


def _matches(name: str, modules: Sequence[str]) -> bool:
    return any(matches_suffix(module, name) for module in modules)


def _toml(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
