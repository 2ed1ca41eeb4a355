"""The baseline: the last accepted adapter, read from its record to compare a new one with."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.item_table import read_items
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.item_rows import extras_text, prompt_turns, score_of
from phi3_lora_qa.gate.machine_settings import on_this_machine
from phi3_lora_qa.metrics import MetricInfo
from phi3_lora_qa.models.registry import BaseRef, base_fingerprint
from phi3_lora_qa.record import ItemRow, RunRecord, Verdict, load_record
from phi3_lora_qa.setting_specs import CPU, UNQUANTIZED, server_of
from phi3_lora_qa.settings import GateSettings
from phi3_lora_qa.unicode_surrogates import escape_surrogates


def read_baseline(
    path: Path, items: Sequence[Item], base: BaseRef, settings: GateSettings
) -> tuple[ItemRow, ...]:
    """Return the last accepted adapter's row of every item, in the items' order.

    Both runs must have measured under the same conditions: the same base, number format and kind of
    device, both with or both without a server, and for every item the same prompt, reference,
    choices and checks.

    Args:
        path: A ``record.json``, with its table of items next to it.
        items: This run's items. The record may have more.
        base: This run's base.
        settings: This run's settings.

    Raises:
        InputError: The record or its items cannot be read, its adapter was not accepted, or it
            cannot be compared with this run.
    """
    settings = on_this_machine(settings)
    record = load_record(path)
    _require_accepted(record, path)
    _require_same_measurement(record, path, base, settings)
    if not record.items or Path(record.items).name != record.items:
        raise InputError(
            f"the record {path} does not name a table of items next to it; gate the accepted "
            "adapter again with its quality stage"
        )
    rows = {row.id: row for row in read_items(path.parent / record.items)}
    _require_all_items(record, items, rows, path)
    return tuple(_row_of(item, rows, path) for item in items)


def base_moved(
    rows: Sequence[ItemRow], accepted: Sequence[ItemRow], group: str, info: MetricInfo
) -> float:
    """Return the base's mean now minus its mean in the record, on the same items.

    The base is the same, so any difference shows that the runs measured under different conditions:
    with other metrics, libraries or kinds of machine.
    """
    then = {row.id: row for row in accepted}
    mine = [row for row in rows if row.group == group and not row.failed]
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
            f"the adapter of the record {path} was not accepted: its verdict is {record.verdict}; "
            "pass the record of an accepted adapter"
        )


def _require_same_measurement(
    record: RunRecord, path: Path, base: BaseRef, settings: GateSettings
) -> None:
    here = base_fingerprint(base)
    if (record.base.fingerprint, record.base.id if not here else "") != (
        here,
        base.id if not here else "",
    ):
        there = record.base.fingerprint[:12] or record.base.id
        raise InputError(
            f"the record {path} has a different base: {escape(there, 80)} instead of "
            f"{escape(here[:12] or base.id, 80)}; pass the record of an adapter of this base, "
            "gated with the base's files on disk if they are on disk now"
        )
    recorded = {name: getattr(record.settings.get(name), "value", None) for name in _SCORED_BY}
    is_served = bool(server_of(settings.backend))
    for name, kind in _SCORED_BY.items():
        if is_served and name in _SERVERS_OWN:
            continue
        before = str(recorded[name] or _BEFORE.get(name))
        there, ours = kind(before), kind(str(getattr(settings, name)))
        if there != ours:
            raise InputError(
                f"the record {path} was scored with a different {name}: {escape(before, 80)}; gate "
                f"the accepted adapter again with --phi3-{name} {getattr(settings, name)}, or this "
                f"one with --phi3-{name} {escape(before, 80)}"
            )


def _backend_kind(backend: str) -> str:
    """Return the backend, but the same text for all servers, since two may serve one model."""
    return "a server" if server_of(backend) else backend


def _device_kind(device: str) -> str:
    """Return the kind of a device: two GPUs of one machine compute alike."""
    return device.partition(":")[0]


_SCORED_BY: Mapping[str, Callable[[str], str]] = {
    "dtype": str,
    "backend": _backend_kind,
    "device": _device_kind,
    "quantization": str,
}
_SERVERS_OWN = ("device", "quantization")
"""What a server chooses, whatever the settings are."""
_BEFORE: Mapping[str, str] = {"device": CPU, "quantization": UNQUANTIZED}
"""What applied to records that do not state it."""


def _require_all_items(
    record: RunRecord, items: Sequence[Item], rows: Mapping[str, ItemRow], path: Path
) -> None:
    """Require a row for each item.

    The items that early stopping evaluated are not enough: the choice of these items depends on the
    accepted adapter's answers.
    """
    missing = [item.id for item in items if escape_surrogates(item.id) not in rows]
    if not missing:
        return
    skipped = record.items_skipped_early
    why = f" (early stopping skipped {skipped} items in that run)" if skipped else ""
    raise InputError(
        f"the record {path} lacks {len(missing)} of the {len(items)} items, such as "
        f"{escape(repr(missing[0]), 60)}{why}, so the two adapters cannot be compared; "
        "gate the accepted adapter again with this suite and --phi3-early-stop off"
    )


def _row_of(item: Item, rows: Mapping[str, ItemRow], path: Path) -> ItemRow:
    row = rows[escape_surrogates(item.id)]
    texts = (item.group, item.reference, extras_text(item))
    same_texts = (row.group, row.reference, row.extras) == tuple(map(escape_surrogates, texts))
    name = escape(repr(item.id), 60)
    if not same_texts or row.prompt != prompt_turns(item):
        fault = f"has a different prompt, reference, group, choices or checks for the item {name}"
    elif row.failed or not math.isfinite(row.tuned_loss):
        fault = f"has no score for the item {name}"
    else:
        return row
    raise InputError(
        f"the record {path} {fault}, so the two adapters cannot be compared; "
        "gate the accepted adapter again with this suite and --phi3-early-stop off"
    )
