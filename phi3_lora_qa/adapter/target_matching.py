"""Which modules a config means, and with what rank and scaling: peft's own rules, in bounded time.

The rules are those of peft 0.21.2: `check_target_module_exists` (tuners/tuners_utils.py) for what
is adapted, `get_pattern_key` (utils/other.py) for ranks and alphas, `_set_trainable` there for
modules_to_save. Plain names are compared as text; only what is no plain name becomes a `Pattern`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from phi3_lora_qa.adapter.config import LoraAdapterConfig, scaling_of
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.patterns import Budget, Pattern, PatternError

ALL_LINEAR = "all-linear"
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_NAME = re.compile(r"[A-Za-z0-9_]+")

Value = TypeVar("Value", int, float)

Matcher = Callable[[str], bool]
"""Answers whether a module's name (without ``base_model.model.``) is meant."""


class Matching:
    """A config's patterns, compiled once.

    Raises:
        AdapterError: A pattern is outside the syntax that is matched in bounded time.
    """

    def __init__(self, config: LoraAdapterConfig) -> None:
        self.config = config
        self.all_linear = (
            isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
        )
        budget = Budget()
        self._target = _names_or_pattern(config.target_modules, "target_modules", budget)
        self._excluded = _names_or_pattern(config.exclude_modules, "exclude_modules", budget)
        self._saved_zone = _zone(config.modules_to_save, budget)
        self._ranks = _table(config.rank_pattern, "rank_pattern", budget)
        self._alphas = _table(config.alpha_pattern, "alpha_pattern", budget)
        self._chosen: dict[str, tuple[int, float]] = {}
        if not all(_PLAIN.fullmatch(name) for name in config.layers_pattern):
            raise _refusal("layers_pattern", "it must be a plain name")

    def targets(self, module: str, *, is_linear: bool = True) -> bool:
        """Whether peft puts LoRA factors on this module.

        Args:
            module: Its name in the base model, such as ``model.layers.0.mlp.down_proj``.
            is_linear: Whether ``all-linear`` would take it: a linear layer, and not the head.
        """
        if self._excluded(module) or self._saved_zone(module):
            return False
        if self.all_linear:
            return is_linear
        return self._target(module) and self._in_layers(module)

    def targets_weight(self, module: str) -> bool:
        """Whether target_parameters names the weight of this module; peft compares its end."""
        parameter = f".{module}.weight"
        return any(parameter.endswith(f".{name}") for name in self.config.target_parameters)

    def saves(self, module: str) -> bool:
        """Whether modules_to_save names this module; peft compares ends of names, dots or not."""
        return module.endswith(self.config.modules_to_save)

    def rank(self, module: str) -> int:
        """Return the rank that the config gives to this module."""
        return self._choose(module)[0]

    def alpha(self, module: str) -> float:
        """Return the alpha that the config gives to this module."""
        return self._choose(module)[1]

    def scaling(self, module: str) -> float:
        """Return the factor s in delta = s · B·A for this module."""
        return scaling_of(
            alpha=self.alpha(module), rank=self.rank(module), use_rslora=self.config.use_rslora
        )

    def idle_patterns(self, modules: Iterable[str]) -> list[tuple[str, str]]:
        """Return (field, pattern) of rank and alpha patterns that none of the modules matches."""
        known = list(modules)
        return [
            (field, key)
            for field, entries in (("rank_pattern", self._ranks), ("alpha_pattern", self._alphas))
            for key, (matches, _) in entries.items()
            if not any(map(matches, known))
        ]

    def _choose(self, module: str) -> tuple[int, float]:
        if module not in self._chosen:
            rank = _first(self._ranks, module, self.config.r)
            alpha = _first(self._alphas, module, self.config.lora_alpha)
            self._chosen[module] = (rank, alpha)
        return self._chosen[module]

    def _in_layers(self, module: str) -> bool:
        wanted = self.config.layers_to_transform
        # A name given in full is taken whatever layers_to_transform says.
        if wanted is None or module in self.config.target_modules:
            return True
        index = layer_index(module, self.config.layers_pattern)
        return index is not None and index in wanted


def layer_index(module: str, containers: tuple[str, ...] = ()) -> int | None:
    """Return the index of the layer that a module is in, as peft finds it.

    Args:
        module: A name such as ``model.layers.3.mlp.down_proj``.
        containers: The names that may stand before the index; any name if there are none.
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
    wanted = frozenset(value)
    return lambda module: not wanted.isdisjoint(name_suffixes(module))


def name_suffixes(module: str) -> list[str]:
    """Return the name and every part of it that follows a dot."""
    parts = module.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _zone(names: tuple[str, ...], budget: Budget) -> Matcher:
    r"""Match as any of ``(^|.*\.)name($|\..*)`` does: one part of the module's name is meant."""
    plain = {name for name in names if _NAME.fullmatch(name)}
    others = [
        _compile(rf"(^|.*\.){name}($|\..*)", "modules_to_save", budget, whole=False)
        for name in names
        if name not in plain
    ]
    return lambda module: (
        not plain.isdisjoint(module.split(".")) or any(matches(module) for matches in others)
    )


def _table(
    patterns: Mapping[str, Value], field: str, budget: Budget
) -> dict[str, tuple[Matcher, Value]]:
    return {key: (_tail_matcher(key, field, budget), value) for key, value in patterns.items()}


def _tail_matcher(key: str, field: str, budget: Budget) -> Matcher:
    r"""Match as ``(.*\.)?(key)$`` does, where a dot in a plain key stands for any letter."""
    if not _PLAIN.fullmatch(key):
        return _compile(rf"(.*\.)?({key})$", field, budget, whole=False)
    size = len(key)

    def matches(module: str) -> bool:
        tail = module[-size:]
        if len(tail) != size or (len(module) > size and module[-size - 1] != "."):
            return False
        return tail == key or all(k in (".", t) for k, t in zip(key, tail, strict=True))

    return matches


def _first(table: Mapping[str, tuple[Matcher, Value]], module: str, default: Value) -> Value:
    return next((value for matches, value in table.values() if matches(module)), default)


def _compile(text: str, field: str, budget: Budget, *, whole: bool) -> Matcher:
    """Compile a pattern to what ``re.fullmatch`` (``whole``) or ``re.match`` would say."""
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
        f"the pattern in {field} is not matched ({escape(reason)})",
        "write the names of the modules as a list instead",
    )
