"""Compare two records of the same adapter: verdict, metrics, measured numbers, spectra and items.

``python benchmarks/compare_records.py OLD NEW`` compares two report folders (or record.json files)
and prints what differs; the exit status is 1 if anything does. Names are not compared: check ids,
names of settings, messages, paths, versions of this package, times. Records of schema version 1 and
2 can be compared with each other: checks by their stage and place, items by their id.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

ITEM_TEXTS = ("reference", "base_answer", "tuned_answer", "cluster")
NOT_COMPARED = (
    "traceback", "findings", "unchecked", "rules", "ignored", "before", "after", "id",
    "properties",)  # fmt: skip


def compare(old: Path, new: Path) -> list[str]:
    """Return a line for everything that differs between two report folders."""
    first, second = (json.loads(_record(path).read_text(encoding="utf-8")) for path in (old, new))
    found = [*_differences("verdict", first["verdict"], second["verdict"])]
    found += _compare_checks(first["checks"], second["checks"])
    found += _differences(
        "metrics", [_metric(m) for m in first["metrics"]], [_metric(m) for m in second["metrics"]]
    )
    found += _differences("spectra", first["spectra"], second["spectra"])
    for key in ("sha256", "config", "manifest"):
        found += _differences(f"adapter.{key}", first["adapter"][key], second["adapter"][key])
    found += _differences("base", first["base"], second["base"])
    tables = [_items(path, record) for path, record in ((old, first), (new, second))]
    return found + list(_differences("items", *tables))


def _record(path: Path) -> Path:
    return path / "record.json" if path.is_dir() else path


def _compare_checks(old: list[Any], new: list[Any]) -> Iterator[str]:
    """Compare the checks of each stage in their order: ids may have new names."""
    stages = [check["stage"] for check in old]
    if stages != [check["stage"] for check in new]:
        yield f"checks: {len(old)} and {len(new)}, or other stages"
        return
    for before, after in zip(old, new, strict=True):
        name = after["id"]
        yield from _differences(f"{name} outcome", before["outcome"], after["outcome"])
        measures = [_measured(check["measured"]) for check in (before, after)]
        yield from _differences(f"{name} measured", *_pair_renamed(*measures))


def _pair_renamed(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Give renamed measures their new names: those that only one record has, in their order."""
    gone = [name for name in old if name not in new]
    come = [name for name in new if name not in old]
    renamed = dict(zip(gone, come, strict=False))
    return {renamed.get(name, name): value for name, value in old.items()}, new


def _measured(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a check; a limit's metric is reduced to its numbers, too."""
    found = {name: value for name, value in measured.items() if name not in NOT_COMPARED}
    if isinstance(found.get("metric"), dict):
        found["metric"] = _metric(found["metric"])
    return found


def _metric(metric: Mapping[str, Any]) -> dict[str, Any]:
    """Return a metric with its limit as a number, from a sentence or from fields.

    The method is a sentence; only its numbers are compared.
    """
    found = dict(metric)
    limit = found.pop("limit")
    if isinstance(limit, dict):
        found["limit_value"] = f"{limit['value']:g}"
    else:
        numbers = re.findall(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", limit or "")
        found["limit_value"] = f"{float(numbers[-1]):g}" if numbers else None
    if not limit:  # version 1 called the outcome without a limit "not_run"
        found["limit_value"] = found["outcome"] = None
    found["method"] = re.findall(r"\d+", found["method"])
    return found


def _items(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return every item's texts, losses and scores by its id; empty without items."""
    if not record["items"]:
        return {}
    frame = pd.read_parquet(_record(path).with_name(record["items"]))
    numbers = [c for c in frame.columns if c.endswith((".base", ".tuned", "_loss", "tokens"))]
    return {
        str(row["id"]): {
            "error": any(row.get(c) for c in ("error", "base_error", "tuned_error")),
            **{name: str(row[name]) for name in ITEM_TEXTS},
            **{name: float(row[name]) for name in numbers},
        }
        for _, row in frame.iterrows()
    }


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    """Yield a line for each value that differs; floats are equal only to the last bit."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in _union(old, new):
            yield from _differences(f"{where}.{key}", old.get(key, "none"), new.get(key, "none"))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{where}[{number}]", *pair)
    elif not _same(old, new):
        yield f"{where}: {str(old)[:80]} is now {str(new)[:80]}"


def _union(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new):
        return True
    return type(old) is type(new) and bool(old == new)


def main() -> int:
    """Compare the two records that the command line names."""
    old, new = map(Path, sys.argv[1:])
    found = compare(old, new)
    print("\n".join(found) or "the records are equal apart from names")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
