from pathlib import Path

from phi3_lora_qa.adapter.file_kind import FileKind
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.foreign_files import foreign_files, of_tokenizer
from tests.adapter.adapters import plain
from tests.adapter.tiny_base import tokenizer_files

POINTER = b"version https://git-lfs.github.com/spec/v1\n"


def test_only_files_that_programs_read_are_recognised(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files() | {
        "tokenizer.model": POINTER, "README.md": POINTER, "adapter_model.bin": POINTER,
    }  # fmt: skip
    folder = adapter.save(tmp_path)
    assert foreign_files(AdapterFolder.open(folder)) == {"tokenizer.model": FileKind.LFS_POINTER}
    (folder / "adapter_model.safetensors").unlink()
    opened = AdapterFolder.open(folder)
    found = foreign_files(opened)
    assert set(found) == {"tokenizer.model", "adapter_model.bin"}
    assert set(of_tokenizer(opened, found)) == {"tokenizer.model"}


def test_a_file_that_cannot_be_read_is_left_to_its_rule(tmp_path: Path) -> None:
    folder = plain().save(tmp_path)
    opened = AdapterFolder.open(folder)
    (folder / "adapter_config.json").write_bytes(POINTER)  # it has changed since
    assert foreign_files(opened) == {}
