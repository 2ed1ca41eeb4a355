"""Decides which modules a config targets, and their rank and scaling, in bounded time.

The rules are those of peft 0.21.2: `check_target_module_exists` (tuners/tuners_utils.py) for
targets, `get_pattern_key` (utils/other.py) for ranks and alphas, `_set_trainable` (there) for
modules_to_save. Plain names are compared as strings; only other names are compiled to a `Pattern`.

Python's `re` also takes patterns that cannot be matched in linear time, such as those with back
references. The weights file then says which modules they select, and with which rank.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.module_names import matches_suffix, name_suffixes
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.lora_scaling import scaling_of
from phi3_lora_qa.patterns import Budget, Pattern, PatternError

ALL_LINEAR = "all-linear"
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_NAME = re.compile(r"[A-Za-z0-9_]+")

_FIX = "write the names of the modules as a list instead"

MAX_STEPS_IN_RE = 200_000
"""The most steps of Python's `re` on one name: some milliseconds."""

Value = TypeVar("Value", int, float)

Matcher = Callable[[str], bool]
"""Returns whether a module name (without ``base_model.model.``) matches."""


@dataclass(frozen=True, kw_only=True)
class UnmatchedPattern:
    """A pattern that was not matched; the weights file decided instead.

    Attributes:
        field: The field of the config.
        reason: Why it cannot be matched in linear time.
    """

    field: str
    reason: str


class Matching:
    """The compiled patterns of a config.

    Args:
        config: The config.
        in_file: The rank of each module with factors in the weights file, for patterns that cannot
            be matched in linear time. Without it, they are an error.

    Attributes:
        in_file: The same, or empty.
        unmatched: The patterns that were resolved with ``in_file``.

    Raises:
        AdapterError: A pattern is invalid, or cannot be matched and not be resolved either.
    """

    def __init__(self, config: LoraAdapterConfig, in_file: Mapping[str, int] | None = None) -> None:
        self.config = config
        self.unmatched: list[UnmatchedPattern] = []
        self.all_linear = (
            isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
        )
        self.in_file = in_file or {}
        self._patterns = _Patterns(Budget())
        compiled = self._patterns
        self._target = self._resolvable(
            "target_modules",
            lambda field: compiled.names_or_pattern(config.target_modules, field),
            lambda module, has_factors: has_factors,
        )
        self._excluded = self._resolvable(
            "exclude_modules",
            lambda field: compiled.names_or_pattern(config.exclude_modules, field),
            lambda module, has_factors: not has_factors,
        )
        self._in_layers = self._resolvable(
            "layers_pattern",
            self._layer_matcher,
            lambda module, has_factors: has_factors,
        )
        self._saved = compiled.name_parts(config.modules_to_save, "modules_to_save")
        self._alphas = compiled.table(config.alpha_pattern, "alpha_pattern")
        self._ranks: Mapping[str, tuple[Matcher, int]] = {}
        self._takes_ranks_of_file = False
        try:
            self._ranks = compiled.table(config.rank_pattern, "rank_pattern")
        except _UnsupportedPatternError as error:
            self._leave_to_file("rank_pattern", error)
            self._takes_ranks_of_file = True
        self._resolved: dict[str, tuple[int, float]] = {}

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

    def require_bounded_re(self, modules: Iterable[str]) -> None:
        """Require that Python's `re`, with which peft matches, takes a bounded time.

        Names that differ in digits only, as those of different layers, count once.

        Raises:
            AdapterError: A pattern takes too long on one of the modules.
        """
        different = {re.sub(r"[0-9]", "0", name): name for name in modules}
        self._patterns.require_bounded_re(different.values())

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
            rank = (
                self.in_file.get(module, self.config.r)
                if self._takes_ranks_of_file
                else _first_match(self._ranks, module, self.config.r)
            )
            alpha = _first_match(self._alphas, module, self.config.lora_alpha)
            self._resolved[module] = (rank, alpha)
        return self._resolved[module]

    def _resolvable(
        self,
        field: str,
        compile_field: Callable[[str], Matcher],
        by_factors: Callable[[str, bool], bool],
    ) -> Matcher:
        """Compile a field, or let the factors in the file decide if that is impossible."""
        try:
            return compile_field(field)
        except _UnsupportedPatternError as error:
            in_file = self._leave_to_file(field, error)
            return lambda module: by_factors(module, module in in_file)

    def _leave_to_file(self, field: str, error: "_UnsupportedPatternError") -> Mapping[str, int]:
        if not self.in_file:
            raise error
        self.unmatched.append(UnmatchedPattern(field=field, reason=error.reason))
        return self.in_file

    def _layer_matcher(self, field: str) -> Matcher:
        config = self.config
        if unusual := [name for name in config.layers_pattern if not _PLAIN.fullmatch(name)]:
            _require_valid(unusual[0], field)
            raise _UnsupportedPatternError(field, "only plain names are supported")
        selected = config.layers_to_transform

        def is_selected(module: str) -> bool:
            # A full module name is adapted regardless of layers_to_transform.
            if selected is None or module in config.target_modules:
                return True
            index = layer_index(module, config.layers_pattern)
            return index is not None and index in selected

        return is_selected


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


class _Patterns:
    """Compiles the values of fields to matchers, all within one budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._compiled: list[tuple[str, Pattern, bool]] = []

    def names_or_pattern(self, value: tuple[str, ...] | str, field: str) -> Matcher:
        if isinstance(value, str):
            if value.lower() == ALL_LINEAR and field == "target_modules":
                return lambda module: False
            return self._compile(value, field, whole=True)
        names = frozenset(value)
        return lambda module: not names.isdisjoint(name_suffixes(module))

    def name_parts(self, names: tuple[str, ...], field: str) -> Matcher:
        r"""Match like ``(^|.*\.)name($|\..*)`` for any of the names: a part of a module's name."""
        plain = {name for name in names if _NAME.fullmatch(name)}
        others = [
            self._compile(rf"(^|.*\.){name}($|\..*)", field, whole=False)
            for name in names
            if name not in plain
        ]
        return lambda module: (
            not plain.isdisjoint(module.split(".")) or any(matches(module) for matches in others)
        )

    def table(
        self, patterns: Mapping[str, Value], field: str
    ) -> Mapping[str, tuple[Matcher, Value]]:
        return {key: (self._suffix(key, field), value) for key, value in patterns.items()}

    def require_bounded_re(self, modules: Iterable[str]) -> None:
        known = list(modules)
        for field, pattern, whole in self._compiled:
            for module in known:
                try:
                    steps = pattern.steps_in_re(module, MAX_STEPS_IN_RE, whole=whole)
                    self._budget.spend(steps // 2)
                except PatternError as error:
                    raise _UnsupportedPatternError(field, str(error)) from error
                if steps > MAX_STEPS_IN_RE:
                    reason = (
                        f"Python's re, with which peft matches it, takes more than "
                        f"{MAX_STEPS_IN_RE} steps on {module}"
                    )
                    raise _UnsupportedPatternError(field, reason)

    def _suffix(self, key: str, field: str) -> Matcher:
        r"""Match like ``(.*\.)?(key)$``, where a dot in a plain key matches any character."""
        if not _PLAIN.fullmatch(key):
            return self._compile(rf"(.*\.)?({key})$", field, whole=False)
        size = len(key)

        def matches(module: str) -> bool:
            suffix = module[-size:]
            if len(suffix) != size or (len(module) > size and module[-size - 1] != "."):
                return False
            return suffix == key or all(k in (".", c) for k, c in zip(key, suffix, strict=True))

        return matches

    def _compile(self, text: str, field: str, *, whole: bool) -> Matcher:
        """Compile a pattern that matches like ``re.fullmatch`` (``whole``) or ``re.match``."""
        try:
            compiled = Pattern(text, self._budget)
        except PatternError as error:
            _require_valid(text, field)
            raise _UnsupportedPatternError(field, str(error)) from error
        self._compiled.append((field, compiled, whole))

        def matches(module: str) -> bool:
            try:
                return compiled.fullmatch(module) if whole else compiled.match(module)
            except PatternError as error:
                raise _UnsupportedPatternError(field, str(error)) from error

        return matches


class _UnsupportedPatternError(AdapterError):
    """A pattern that Python's `re` may take, but that cannot be matched in bounded time."""

    def __init__(self, field: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"unsupported pattern in {field}: {escape(reason)}", _FIX)


def _require_valid(text: str, field: str) -> None:
    """Raise AdapterError for a pattern that Python's `re`, and so peft, rejects."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        message = f"invalid pattern in {field}, which peft fails on: {escape(str(error))}"
        raise AdapterError(message, _FIX) from error


def _first_match(table: Mapping[str, tuple[Matcher, Value]], module: str, default: Value) -> Value:
    return next((value for matches, value in table.values() if matches(module)), default)
