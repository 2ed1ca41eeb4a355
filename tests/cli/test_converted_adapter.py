from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.cli.converted_adapter import open_base, write_converted
from phi3_lora_qa.conversion.peft_adapter import read_adapter
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.models.registry import bundled


def test_a_known_base_is_opened_by_its_name_and_by_its_folder() -> None:
    assert open_base("tiny")[0] == open_base(str(bundled("tiny/base")))[0] == "tiny"


def test_an_error_while_files_are_copied_leaves_nothing(good_adapter: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in good_adapter.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    opened = AdapterFolder.open(source)
    (source / "tokenizer.json").write_text("changed", encoding="utf-8")
    _, files = open_base("tiny")
    adapter = read_adapter(source)
    with pytest.raises(AdapterError, match="changed while it was being read"):
        write_converted(adapter, files, tmp_path / "out", base="tiny", force=False, source=opened)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
