"""``phi3-lora-qa report``: renders the page again from its record."""

from pathlib import Path

from phi3_lora_qa.errors import escape


def report_command(record: Path, output: Path | None = None) -> Path:
    """Render the page of a record.json, or of its folder, and print the page's path.

    Args:
        record: The record, or its folder.
        output: The page's file; by default ``report.html`` next to the record.

    Returns:
        The page's path.

    Raises:
        InputError: The record cannot be read or the page cannot be written.
    """
    from phi3_lora_qa.report import render_again
    from phi3_lora_qa.report.report_folder import PAGE, RECORD

    source = record / RECORD if record.is_dir() else record
    target = output or source.with_name(PAGE)
    render_again(source, target)
    print(f"report: {escape(str(target), 1_000)}")
    return target
