import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.cli.report import report_command
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.report import write_report
from tests.report.builders import failing, items


def test_the_page_is_rendered_again_beside_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_report(failing(), items(3), tmp_path)
    before = page.read_bytes()
    page.unlink()
    report_command(tmp_path / "record.json", None)
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"report: {page}\n"


def test_a_folder_stands_for_its_record_and_the_page_may_go_elsewhere(tmp_path: Path) -> None:
    page = write_report(failing(), items(3), tmp_path)
    other = tmp_path / "other.html"
    assert report_command(tmp_path, other) == other
    assert other.read_bytes() == page.read_bytes()


def test_a_record_alone_is_reported_without_its_items(tmp_path: Path) -> None:
    write_report(failing(), items(3), tmp_path)
    (tmp_path / "items.parquet").unlink()
    page = report_command(tmp_path)
    assert "was not beside the record" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"schema_version": 1}'])
def test_what_is_no_record_is_refused_with_the_mend(tmp_path: Path, content: str | None) -> None:
    record = tmp_path / "record.json"
    if content is not None:
        record.write_text(content)
    with pytest.raises(InputError, match=r"gate the adapter again|give a record\.json"):
        report_command(record)
    assert not (tmp_path / "report.html").exists()


def test_the_command_loads_nothing_heavy_before_it_is_called() -> None:
    script = "import sys, phi3_lora_qa.cli.report; print({'jinja2', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
