"""The per-item table as a file of the report; the room data knows its form."""

from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.data.item_table import items_as_parquet
from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.atomic_write import write_whole


def write_items(rows: Sequence[ItemRow], path: Path) -> None:
    """Write the rows as parquet.

    Raises:
        InputError: ``path`` cannot be written.
    """
    write_whole(path, items_as_parquet(rows))
