"""Check target modules against the base: a name that matches no layer is an error.

Phi-3 fuses q, k and v into ``qkv_proj``, and gate and up into ``gate_up_proj``. The Phi-3
cookbook's notebooks list the split layers of Llama. PEFT silently skips names that it does not
find, and so trains a third of the intended parameters
(https://github.com/microsoft/PhiCookBook/issues/185,
https://github.com/huggingface/peft/issues/1959).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from phi3_lora_qa.adapter.architecture import FUSED_OF, PHI3, architecture_of
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.strict_values import suggest


def linear_modules(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the full names of the layers that LoRA can target, from a base's config.json."""
    architecture = architecture_of(config) or PHI3
    layers = config.get("num_hidden_layers")
    count = layers if isinstance(layers, int) else 0
    return tuple(f"model.layers.{i}.{name}" for i in range(count) for name in architecture.linears)


def linear_names(model: Any) -> list[str]:
    """Return the full names of a model's linear layers, without the output head."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module is not head
    ]


def check_targets(targets: str | Sequence[str], modules: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that the targets match.

    Args:
        targets: PEFT's target_modules: "all-linear", a regular expression, or names. A name
            matches a module if the module's full name equals it or ends with it after a dot.
        modules: Full names of the linear layers of the base, without lm_head.

    Raises:
        InputError: A name or a pattern matches no layer; the message has the right names.
    """
    if targets == "all-linear":
        return tuple(modules)
    if isinstance(targets, str):
        return _check_pattern(targets, modules)
    if not targets:
        raise InputError(f"target_modules is empty; {_valid_targets(modules)}")
    missed = [name for name in targets if not _matches(name, modules)]
    if missed:
        raise InputError(_unmatched(missed, targets, modules))
    return tuple(
        module for module in modules if any(matches_suffix(module, name) for name in targets)
    )


def _check_pattern(pattern: str, modules: Sequence[str]) -> tuple[str, ...]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"target_modules '{escape(pattern, 80)}' is not a valid regular expression ({error}); "
            f"{_valid_targets(modules)}"
        ) from error
    found = tuple(module for module in modules if compiled.fullmatch(module))
    if not found:
        raise InputError(
            f"target_modules '{escape(pattern, 80)}' matches no layer of the base; "
            f"{_valid_targets(modules)}"
        )
    # A pattern with split names may still match o_proj and down_proj, which hides the rest.
    split = [
        name
        for name in FUSED_OF
        if re.search(rf"(?<![A-Za-z0-9_]){name}\b", pattern) and not _matches(name, modules)
    ]
    if split:
        raise InputError(_unmatched(split, split, modules))
    return found


def _unmatched(missed: Sequence[str], targets: Sequence[str], modules: Sequence[str]) -> str:
    names = ", ".join(escape(str(name), 60) for name in missed)
    text = f"target_modules: no linear layer of the base is called {names}"
    existing = _last_parts(modules)
    fused = {name: FUSED_OF[name] for name in missed if FUSED_OF.get(name) in existing}
    if fused:
        corrected = [FUSED_OF.get(name, name) if name in missed else name for name in targets]
        valid = [name for name in dict.fromkeys(corrected) if _matches(name, modules)]
        where = ", ".join(f"{old} in {new}" for old, new in fused.items())
        return f"{text}; Phi-3 has {where}: use target_modules = {_toml(valid)}"
    if len(missed) == 1:
        return f"{text}; {suggest(missed[0], existing)}"
    return f"{text}; {_valid_targets(modules)}"


def _valid_targets(modules: Sequence[str]) -> str:
    return f'use "all-linear", or names from {_toml(_last_parts(modules))}'


def _last_parts(modules: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(module.rpartition(".")[2] for module in modules))


def _matches(name: str, modules: Sequence[str]) -> bool:
    return any(matches_suffix(module, name) for module in modules)


def _toml(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
