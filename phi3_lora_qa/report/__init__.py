"""Internal: the report in HTML and Markdown, made from a record and its items."""

from phi3_lora_qa.data.item_table import read_items as read_items
from phi3_lora_qa.record import ItemRow as ItemRow
from phi3_lora_qa.report.html import render_html as render_html
from phi3_lora_qa.report.markdown import render_markdown as render_markdown
from phi3_lora_qa.report.report_folder import remove_report as remove_report
from phi3_lora_qa.report.report_folder import require_own as require_own
from phi3_lora_qa.report.write_report import render_again as render_again
from phi3_lora_qa.report.write_report import replace_report as replace_report
from phi3_lora_qa.report.write_report import write_report as write_report
