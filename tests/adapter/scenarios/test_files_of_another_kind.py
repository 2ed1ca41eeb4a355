"""A pointer, a page or an archive in place of any file is named once; nothing else is blamed."""

import gzip
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.file_kind import FileKind
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.adapter.rule_selection import Selection
from tests.adapter.adapters import Adapter, plain, report_on
from tests.adapter.tiny_base import TEMPLATE, tokenizer_files, write_base

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214\nsize 12345\n"
CONTENTS = {
    FileKind.LFS_POINTER: POINTER,
    FileKind.WEB_PAGE: b"<!DOCTYPE html>\n<html class=''>\n<head>",
    FileKind.SERVER_MESSAGE: b"Invalid username or password.",
    FileKind.GZIP: gzip.compress(b"text", mtime=0),
    FileKind.GGUF: b"GGUF\x03\x00\x00\x00" + bytes(40),
    FileKind.ZIP: b"PK\x03\x04" + bytes(40),
    FileKind.EMPTY: b"",
}
NAMES = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "generation_config.json",
    "vocab.json", "config.json", "lora_qa_manifest.json", "more.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def _with(name: str, content: bytes) -> Adapter:
    adapter = plain()
    adapter.files = tokenizer_files() | {"chat_template.jinja": TEMPLATE.encode()}
    if name == "adapter_model.bin":
        adapter.after.append(lambda folder: (folder / "adapter_model.safetensors").unlink())
    adapter.after.append(lambda folder: (folder / name).parent.mkdir(exist_ok=True))
    adapter.after.append(lambda folder: (folder / name).write_bytes(content) and None)
    return adapter


def _errors(report: LintReport) -> list[tuple[str, str, str]]:
    errors = [f for f in report.findings if f.severity is Severity.ERROR]
    return [(f.rule, f.where, f.message) for f in errors]


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_pointer_in_place_of_any_file_is_named_once(
    name: str, based: bool, base: Path, tmp_path: Path
) -> None:
    report = report_on(_with(name, POINTER), tmp_path, base if based else None)
    assert _errors(report) == [("files-wrong-kind", name, "it is a git-lfs pointer")]
    assert len(report.findings) == 1
    assert "git lfs pull" in report.findings[0].fix


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_other_kinds_in_place_of_config_and_weights_are_named_once(
    name: str, kind: FileKind, tmp_path: Path
) -> None:
    report = report_on(_with(name, CONTENTS[kind]), tmp_path)
    assert _errors(report) == [("files-wrong-kind", name, f"it is {kind}")]
    assert report.findings[0].fix == kind.fix
    assert all(unchecked.fix_first in {"", name} for unchecked in report.unchecked)


def test_a_real_pickle_of_weights_is_still_a_pickle(tmp_path: Path) -> None:
    report = report_on(_with("adapter_model.bin", b"\x80\x02}q\x00."), tmp_path)
    assert [rule for rule, _, _ in _errors(report)] == ["files-pickled-weights"]


@pytest.mark.parametrize("name", NAMES)
def test_leaving_the_rule_out_does_not_accept_a_pointer(name: str, tmp_path: Path) -> None:
    folder = AdapterFolder.open(_with(name, POINTER).save(tmp_path))
    for selection in (
        Selection(levels={"files-wrong-kind": Severity.INFO}),
        Selection(ignore=("files-wrong-kind",)),
    ):
        report = lint(folder, None, selection)
        unread = name in {"generation_config.json", "config.json"}  # compared with a base only
        assert report.accepted is unread, report.findings


@pytest.mark.parametrize("name", ["training_args.bin", "README.md", "optimizer.pt"])
def test_a_pointer_that_no_program_needs_is_not_an_error(name: str, tmp_path: Path) -> None:
    assert report_on(_with(name, POINTER), tmp_path).accepted


def test_a_log_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    (finding,) = report_on(_with("trainer_state.json", POINTER), tmp_path).findings
    assert finding.message == "trainer_state.json is a git-lfs pointer"
