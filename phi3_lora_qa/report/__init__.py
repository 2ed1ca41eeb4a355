"""The report: HTML and Markdown, made from a record and its items."""

from phi3_lora_qa.data.item_table import read_items
from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.report.html import render_html
from phi3_lora_qa.report.items_file import write_items
from phi3_lora_qa.report.markdown import render_markdown
from phi3_lora_qa.report.report_folder import require_own, take_away
from phi3_lora_qa.report.write_report import render_again, replace_report, write_report

__all__ = [
    "ItemRow",
    "read_items",
    "render_again",
    "render_html",
    "render_markdown",
    "replace_report",
    "require_own",
    "take_away",
    "write_items",
    "write_report",
]
