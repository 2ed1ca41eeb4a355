"""Decides which modules a config targets, and their rank and scaling, in bounded time.

The rules are those of peft 0.21.2: `check_target_module_exists` (tuners/tuners_utils.py) for
targets, `get_pattern_key` (utils/other.py) for ranks and alphas, `_set_trainable` (there) for
modules_to_save. Plain names are compared as strings; only other names are compiled to a `Pattern`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.module_names import matches_suffix, name_suffixes
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.lora_scaling import scaling_of
from phi3_lora_qa.patterns import Budget, Pattern, PatternError

ALL_LINEAR = "all-linear"
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_NAME = re.compile(r"[A-Za-z0-9_]+")

Value = TypeVar("Value", int, float)

Matcher = Callable[[str], bool]
"""Returns whether a module name (without ``base_model.model.``) matches."""


class Matching:
    """The compiled patterns of a config.

    Raises:
        AdapterError: A pattern uses syntax that cannot be matched in bounded time.
    """

    def __init__(self, config: LoraAdapterConfig) -> None:
        self.config = config
        self.all_linear = (
            isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
        )
        budget = Budget()
        self._target = _names_or_pattern(config.target_modules, "target_modules", budget)
        self._excluded = _names_or_pattern(config.exclude_modules, "exclude_modules", budget)
        self._saved = _name_part_matcher(config.modules_to_save, budget)
        self._ranks = _compile_table(config.rank_pattern, "rank_pattern", budget)
        self._alphas = _compile_table(config.alpha_pattern, "alpha_pattern", budget)
        self._resolved: dict[str, tuple[int, float]] = {}
        if not all(_PLAIN.fullmatch(name) for name in config.layers_pattern):
            raise _refusal("layers_pattern", "only plain names are supported")

    def targets(self, module: str, *, is_linear: bool = True) -> bool:
        """Whether peft puts LoRA factors on this module.

        Args:
            module: Its name in the base model, such as ``model.layers.0.mlp.down_proj``.
            is_linear: Whether ``all-linear`` includes it: a linear layer other than the head.
        """
        if self._excluded(module) or self._saved(module):
            return False
        if self.all_linear:
            return is_linear
        return self._target(module) and self._in_layers(module)

    def targets_weight(self, module: str) -> bool:
        """Whether target_parameters names the weight of this module; peft compares suffixes."""
        parameter = f"{module}.weight"
        return any(matches_suffix(parameter, name) for name in self.config.target_parameters)

    def saves(self, module: str) -> bool:
        """Whether modules_to_save names this module; peft compares suffixes, also within a name."""
        return module.endswith(self.config.modules_to_save)

    def rank(self, module: str) -> int:
        """Return the rank of this module."""
        return self._resolve(module)[0]

    def alpha(self, module: str) -> float:
        """Return the alpha of this module."""
        return self._resolve(module)[1]

    def scaling(self, module: str) -> float:
        """Return the factor s in delta = s · B·A of this module."""
        return scaling_of(self.alpha(module), self.rank(module), rslora=self.config.use_rslora)

    def unused_patterns(self, modules: Iterable[str]) -> list[tuple[str, str]]:
        """Return (field, pattern) of each rank or alpha pattern that matches no module."""
        known = list(modules)
        return [
            (field, key)
            for field, entries in (("rank_pattern", self._ranks), ("alpha_pattern", self._alphas))
            for key, (matches, _) in entries.items()
            if not any(map(matches, known))
        ]

    def _resolve(self, module: str) -> tuple[int, float]:
        if module not in self._resolved:
            rank = _first_match(self._ranks, module, self.config.r)
            alpha = _first_match(self._alphas, module, self.config.lora_alpha)
            self._resolved[module] = (rank, alpha)
        return self._resolved[module]

    def _in_layers(self, module: str) -> bool:
        selected = self.config.layers_to_transform
        # A full module name is adapted regardless of layers_to_transform.
        if selected is None or module in self.config.target_modules:
            return True
        index = layer_index(module, self.config.layers_pattern)
        return index is not None and index in selected


def layer_index(module: str, containers: tuple[str, ...] = ()) -> int | None:
    """Return the index of the layer that a module is in, as peft determines it.

    Args:
        module: A name such as ``model.layers.3.mlp.down_proj``.
        containers: The names allowed before the index; empty for any name.
    """
    parts = module.split(".")
    if not containers:
        inner = (part for part in parts[2:-1] if part.isdecimal())
        return next(map(int, inner), None)
    for container in containers:
        length = len(container.split("."))
        for at in range(length, len(parts) - 1):
            if parts[at].isdecimal() and parts[at - length : at] == container.split("."):
                return int(parts[at])
    return None


def _names_or_pattern(value: tuple[str, ...] | str, field: str, budget: Budget) -> Matcher:
    if isinstance(value, str):
        if value.lower() == ALL_LINEAR and field == "target_modules":
            return lambda module: False
        return _compile(value, field, budget, whole=True)
    names = frozenset(value)
    return lambda module: not names.isdisjoint(name_suffixes(module))


def _name_part_matcher(names: tuple[str, ...], budget: Budget) -> Matcher:
    r"""Match like ``(^|.*\.)name($|\..*)`` for any of the names: one part of the module's name."""
    plain = {name for name in names if _NAME.fullmatch(name)}
    others = [
        _compile(rf"(^|.*\.){name}($|\..*)", "modules_to_save", budget, whole=False)
        for name in names
        if name not in plain
    ]
    return lambda module: (
        not plain.isdisjoint(module.split(".")) or any(matches(module) for matches in others)
    )


def _compile_table(
    patterns: Mapping[str, Value], field: str, budget: Budget
) -> dict[str, tuple[Matcher, Value]]:
    return {key: (_suffix_matcher(key, field, budget), value) for key, value in patterns.items()}


def _suffix_matcher(key: str, field: str, budget: Budget) -> Matcher:
    r"""Match like ``(.*\.)?(key)$``, where a dot in a plain key matches any character."""
    if not _PLAIN.fullmatch(key):
        return _compile(rf"(.*\.)?({key})$", field, budget, whole=False)
    size = len(key)

    def matches(module: str) -> bool:
        suffix = module[-size:]
        if len(suffix) != size or (len(module) > size and module[-size - 1] != "."):
            return False
        return suffix == key or all(k in (".", c) for k, c in zip(key, suffix, strict=True))

    return matches


def _first_match(table: Mapping[str, tuple[Matcher, Value]], module: str, default: Value) -> Value:
    return next((value for matches, value in table.values() if matches(module)), default)


def _compile(text: str, field: str, budget: Budget, *, whole: bool) -> Matcher:
    """Compile a pattern that matches like ``re.fullmatch`` (``whole``) or ``re.match``."""
    try:
        compiled = Pattern(text, budget)
    except PatternError as error:
        raise _refusal(field, str(error)) from error

    def matches(module: str) -> bool:
        try:
            return compiled.fullmatch(module) if whole else compiled.match(module)
        except PatternError as error:
            raise _refusal(field, str(error)) from error

    return matches


def _refusal(field: str, reason: str) -> AdapterError:
    return AdapterError(
        f"unsupported pattern in {field}: {escape(reason)}",
        "write the names of the modules as a list instead",
    )
