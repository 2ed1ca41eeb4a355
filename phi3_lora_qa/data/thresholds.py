"""Limits: the value that a metric of a group of items must reach for an adapter to pass."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from phi3_lora_qa.close_match import did_you_mean
from phi3_lora_qa.data.chat_items import DEFAULT_GROUP, require_group
from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.record import Against, LimitEntry, Rule
from phi3_lora_qa.setting_specs import PROFILES
from phi3_lora_qa.toml_file import read_toml

EVERY_OTHER_GROUP = "*"

RULES: Mapping[Rule, str] = {
    "at_least": "at least {value:g}",
    "at_most": "at most {value:g}",
    "improve_by": "better than the {against} by more than {value:g}",
    "no_worse_than": "no worse than the {against} by more than {value:g}",
}
"""The rules, and the words for each."""

BASE: Against = "base"
BASELINE: Against = "baseline"
"""What a limit may compare with: the base, or the last accepted adapter."""

COMPARING = ("improve_by", "no_worse_than")
"""The rules that compare; the others bound the tuned mean itself."""

WATCHED = ("loss", "exact_match", "token_f1")
"""The metrics that the built-in profiles limit, and that a report labels items by."""

_FIELDS = ("group", "metric", "rule", "value")
_OPTIONAL = ("against",)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One limit. ``value`` is in the metric's own unit: nats per token for the loss.

    ``at_least`` and ``at_most`` bound the tuned mean; ``improve_by`` the improvement over the
    base; ``no_worse_than`` is a non-inferiority margin. ``against`` is what the last two compare
    with: ``base``, or ``baseline``, the last accepted adapter. ``group`` may be ``*``: every group
    without its own limit for this metric (and this ``against``).
    """

    group: str
    metric: str
    rule: str
    value: float
    against: str = BASE

    def describe(self) -> str:
        """Return the metric and the limit in words."""
        return f"{self.metric} {limit_text(self.entry())}"

    def entry(self) -> LimitEntry:
        """Return the limit as the record stores it."""
        return LimitEntry(
            rule=cast(Rule, self.rule),
            value=self.value,
            against=cast(Against, self.against),
            group=self.group,
            metric=self.metric,
        )


def limit_text(limit: LimitEntry) -> str:
    """Return a limit in words, without its metric: ``at most 0.1``."""
    return RULES[limit.rule].format(value=limit.value, against=limit.against)


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """By how much the target must improve, and how much worse it and other groups may be.

    In the metrics' own units: nats per token for the loss.
    """

    better: float
    target: float
    elsewhere: float


# A margin of 1 - 0.05^(1/n) passes if nothing changed in any of n items: 59 items for 0.05, 29 for
# 0.10, 11 for 0.25.
_PROFILES = dict(
    zip(
        PROFILES,
        (
            _Profile(better=0.05, target=0.02, elsewhere=0.05),
            _Profile(better=0.05, target=0.05, elsewhere=0.10),
            _Profile(better=0.0, target=0.25, elsewhere=0.25),
        ),
        strict=True,
    )
)


def default_limits(groups: Sequence[str], profile: str = "default") -> tuple[Limit, ...]:
    """Return a built-in profile for a suite of these groups.

    The target, if there is one, must improve by about 5 % of perplexity (0.05 nats per token):
    less is not worth shipping, and an adapter that does almost nothing must not pass. No group may
    get much worse. ``smoke`` has margins so wide that a dozen items can decide them.
    """
    margins, other = _PROFILES[profile], EVERY_OTHER_GROUP
    limits = (
        Limit(group=DEFAULT_GROUP, metric="loss", rule="improve_by", value=margins.better),
        Limit(group=DEFAULT_GROUP, metric="token_f1", rule="no_worse_than", value=margins.target),
        *(
            Limit(group=other, metric=metric, rule="no_worse_than", value=margins.elsewhere)
            for metric in WATCHED
        ),
    )
    return tuple(limit for limit in limits if limit.group in (other, *groups))


def baseline_limits(profile: str = "default") -> tuple[Limit, ...]:
    """Return a profile's limits against the last accepted adapter: no worse in any group."""
    return tuple(
        Limit(
            group=EVERY_OTHER_GROUP,
            metric=metric,
            rule="no_worse_than",
            value=_PROFILES[profile].elsewhere,
            against=BASELINE,
        )
        for metric in WATCHED
    )


def read_thresholds(
    path: Path, metrics: Collection[str], shares: Collection[str] = ()
) -> tuple[Limit, ...]:
    """Read a TOML file of ``[[limit]]`` tables with group, metric, rule and value.

    Args:
        path: The file.
        metrics: The metrics that a limit may name.
        shares: Those of them whose scores are from 0 to 1.

    Raises:
        DataError: The file cannot be read, or a table is not a limit; the message names the table
            and the closest valid name.
    """
    raw = read_toml(path, "the thresholds", "a TOML file of [[limit]] tables", DataError)
    for name in raw:
        if name != "limit":
            raise DataError(_unknown(str(path), "table", name, ("limit",)))
    tables = raw.get("limit")
    if not isinstance(tables, list) or not tables:
        raise DataError(f"{path} has no limits; add at least one [[limit]] table")
    limits = tuple(
        _parse(table, metrics, shares, f"{path}, limit {n}") for n, table in enumerate(tables, 1)
    )
    seen: set[tuple[str, str, str, str]] = set()
    for number, limit in enumerate(limits, 1):
        key = (limit.group, limit.metric, limit.rule, limit.against)
        if key in seen:
            raise DataError(
                f"{path}, limit {number}: group {escape(limit.group, 40)} has two {limit.rule} "
                f"limits for {limit.metric}; keep one"
            )
        seen.add(key)
    for number, limit in enumerate(limits, 1):
        _require_compatible(limit, limits, f"{path}, limit {number}")
    return limits


def expand(limits: Iterable[Limit], groups: Sequence[str]) -> tuple[Limit, ...]:
    """Return the limits group by group: first the suite's groups, then those that it lacks.

    A limit for a group that the suite lacks is kept. It cannot be judged, and the gate must report
    the run as incomplete instead of ignoring the limit.
    """
    limits = tuple(limits)
    missing = {limit.group: None for limit in limits if limit.group not in groups}
    missing.pop(EVERY_OTHER_GROUP, None)
    own = {(limit.group, limit.metric, limit.against) for limit in limits}
    return tuple(
        replace(limit, group=group)
        for group in (*groups, *missing)
        for limit in limits
        if limit.group == group
        or (
            limit.group == EVERY_OTHER_GROUP
            and group in groups
            and (group, limit.metric, limit.against) not in own
        )
    )


def _parse(table: object, metrics: Collection[str], shares: Collection[str], where: str) -> Limit:
    if not isinstance(table, Mapping):
        raise DataError(f"{where} is not a table; write [[limit]] and its fields below")
    for name in table:
        if name not in (*_FIELDS, *_OPTIONAL):
            raise DataError(_unknown(where, "field", name, (*_FIELDS, *_OPTIONAL)))
    for name in _FIELDS:
        if name not in table:
            raise DataError(f"{where} has no {name}; add it")
    group, metric, rule = (_text(table[name], name, where) for name in ("group", "metric", "rule"))
    require_group(group, where)
    if metric not in metrics:
        raise DataError(_unknown(where, "metric", metric, metrics))
    if rule not in RULES:
        raise DataError(_unknown(where, "rule", rule, tuple(RULES)))
    against = _text(table.get("against", BASE), "against", where)
    if against not in get_args(Against):
        raise DataError(_unknown(where, "against", against, get_args(Against)))
    if rule not in COMPARING and "against" in table:
        raise DataError(f"{where}: {rule} does not compare two models; remove 'against'")
    value = _number(table["value"], metric, rule, where, is_share=metric in shares)
    return Limit(group=group, metric=metric, rule=rule, value=value, against=against)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} must be a non-empty string; write it in quotes")
    return value


def _number(value: Any, metric: str, rule: str, where: str, *, is_share: bool) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: value must be a finite number; write one such as 0.05")
    if number < 0 and rule in COMPARING:
        raise DataError(
            f"{where}: {rule} needs a value of 0 or more: got {number:g}; remove the sign"
        )
    # A margin written in percent would silently allow everything.
    if is_share and not 0 <= number <= 1:
        raise DataError(
            f"{where}: {metric} is between 0 and 1, but the limit is {number:g}; "
            "write a share, such as 0.05 for 5 %"
        )
    if is_share and rule == "improve_by" and number == 1:
        raise DataError(
            f"{where}: {metric} is between 0 and 1, so it cannot improve by more than 1; "
            "write a smaller share"
        )
    return number


def _require_compatible(limit: Limit, limits: Sequence[Limit], where: str) -> None:
    """Reject two limits that no adapter could pass together."""
    if limit.rule != "at_least":
        return
    for other in limits:
        same = (other.group, other.metric) == (limit.group, limit.metric)
        if same and other.rule == "at_most" and other.value < limit.value:
            raise DataError(
                f"{where}: {limit.metric} of {escape(limit.group, 40)} cannot be both at least "
                f"{limit.value:g} and at most {other.value:g}; change one of them"
            )


def _unknown(where: str, kind: str, name: str, known: Collection[str]) -> str:
    hint = escape(did_you_mean(name, known), 80) or "use one of them"
    names = ", ".join(escape(other, 60) for other in known)
    return f"{where}: unknown {kind} {escape(repr(name), 60)} (known: {names}); {hint}"
