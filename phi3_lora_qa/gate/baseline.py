"""The last accepted adapter, from its record: what a new one may be held against."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.item_table import read_items
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.comparison import extras_text, prompt_text, score_of
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.models.registry import BaseRef, base_fingerprint
from phi3_lora_qa.record import ItemRow, RunRecord, Verdict, read_record
from phi3_lora_qa.setting_specs import server_of
from phi3_lora_qa.settings import GateSettings
from phi3_lora_qa.surrogates import escape_surrogates


def read_baseline(
    path: Path, items: Sequence[Item], base: BaseRef, settings: GateSettings
) -> tuple[ItemRow, ...]:
    """Return the last accepted adapter's row of every item, in the items' order.

    Only what was made alike is compared: the same base, the same number format, the same side of
    a server, and for every item of this suite the same question with the same reference, choices
    and checks.

    Args:
        path: A ``record.json``, with its table of items beside it.
        items: This run's items. The record may hold further ones.
        base: This run's base.
        settings: This run's settings.

    Raises:
        InputError: The record or its items cannot be read, its adapter was not accepted, or it
            cannot be compared with this run.
    """
    record = read_record(path)
    _require_accepted(record, path)
    _require_alike(record, path, base, settings)
    if not record.items or Path(str(record.items)).name != record.items:
        raise InputError(
            f"the record {path} names no table of items beside it; gate the accepted adapter "
            "again with its quality stage"
        )
    rows = {row.id: row for row in read_items(path.parent / record.items)}
    _require_all(record, items, rows, path)
    return tuple(_row_of(item, rows, path) for item in items)


def base_moved(
    rows: Sequence[ItemRow], accepted: Sequence[ItemRow], group: str, info: MetricInfo
) -> float:
    """Return how far the base's mean is now from what it was in the record, on the same items.

    The base is the same one, so it tells whether both runs measured alike: with the same metrics,
    libraries and kind of machine.
    """
    then = {row.id: row for row in accepted}
    mine = [row for row in rows if row.group == group and not row.error]
    pairs = [(score_of(row, info), score_of(then.get(row.id), info)) for row in mine]
    moves = [now[0] - before[0] for now, before in pairs if now and before]
    return math.fsum(moves) / len(moves) if moves else 0.0


def _require_accepted(record: RunRecord, path: Path) -> None:
    allowed = record.settings.get("allow_inconclusive")
    accepted = record.verdict is Verdict.PASS or (
        record.verdict is Verdict.INCONCLUSIVE and allowed is not None and allowed.value is True
    )
    if not accepted:
        raise InputError(
            f"the adapter of the record {path} was not accepted (verdict {record.verdict}); "
            "give the record of one that was"
        )


def _require_alike(record: RunRecord, path: Path, base: BaseRef, settings: GateSettings) -> None:
    here = base_fingerprint(base)
    if (record.base.fingerprint, record.base.id if not here else "") != (
        here,
        base.id if not here else "",
    ):
        there = str(record.base.fingerprint)[:12] or record.base.id
        raise InputError(
            f"the record {path} is of another base ({escape(str(there), 80)}, here "
            f"{escape(here[:12] or base.id, 80)}); give a record of an adapter of this base, made "
            "where the base's files were at hand as they are here"
        )
    given = {name: getattr(record.settings.get(name), "value", None) for name in _SCORED_BY}
    for name, kind in _SCORED_BY.items():
        there, ours = kind(str(given[name])), kind(str(getattr(settings, name)))
        if there != ours:
            raise InputError(
                f"the record {path} was scored with another {name} ({escape(str(given[name]), 80)})"
                f"; gate the accepted adapter again with this one, {getattr(settings, name)}"
            )


def _served(backend: str) -> str:
    """Whichever server it was: two may serve one model, but none is this process."""
    return "a server" if server_of(backend) else backend


_SCORED_BY: Mapping[str, Callable[[str], str]] = {"dtype": str, "backend": _served}


def _require_all(
    record: RunRecord, items: Sequence[Item], rows: Mapping[str, ItemRow], path: Path
) -> None:
    """A part of the items would not do: which part it is hung on how the accepted one did."""
    lacking = [item.id for item in items if escape_surrogates(item.id) not in rows]
    if not lacking:
        return
    spared = record.items_told("spared")
    why = f" (that run ended early, and spared {spared} items)" if spared else ""
    raise InputError(
        f"the record {path} does not have {len(lacking)} of the {len(items)} items, such as "
        f"{escape(repr(lacking[0]), 60)}{why}, so that the two adapters cannot be paired; "
        "gate the accepted adapter again with this suite and --phi3-early-stop off"
    )


def _row_of(item: Item, rows: Mapping[str, ItemRow], path: Path) -> ItemRow:
    row = rows[escape_surrogates(item.id)]
    asked = (item.group, prompt_text(item), item.reference, extras_text(item))
    name = escape(repr(item.id), 60)
    if (row.group, row.prompt, row.reference, row.extras) != tuple(map(escape_surrogates, asked)):
        fault = f"asks something else in the item {name}, or has other choices or checks for it"
    elif row.error or not math.isfinite(row.tuned_loss):
        fault = f"has no score of the item {name}"
    else:
        return row
    raise InputError(
        f"the record {path} {fault}, so that the two adapters cannot be paired; "
        "gate the accepted adapter again with this suite and --phi3-early-stop off"
    )
