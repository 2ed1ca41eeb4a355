"""Files are opened in one module, which accepts only regular files up to a given size."""

import ast
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import phi3_lora_qa
from phi3_lora_qa import reading
from phi3_lora_qa.reading import open_regular, read_regular, read_text, require_regular
from tests.unreadable_paths import UNREADABLE

PACKAGE = Path(phi3_lora_qa.__file__).parent
ALLOWED = {
    "reading.py": "the module that opens files",
    "adapter/folder.py": "follows no link, and rejects a file that changed",
    "adapter/bounded_process_start.py": "a program of this package, in its own process",
    "libraries.py": "a file of this package",
    "report/html.py": "a file of this package",
    "report/report_folder.py": "follows no link, and reads what is to be replaced",
    "gate/private_copy.py": "the lock of a private folder",
    "cli/demo.py": "what it has just written",
    "cli/convert.py": "writes a copy",
    "gate/journal.py": "the run's private folder",
    "gate/prepare.py": "the run's private folder",
    "gate/checks/round_trips.py": "a private folder of the check",
    "properties/peft_model.py": "a private folder of the property",
}
"""Modules that may open files themselves, each with the reason."""


def is_writing(call: ast.Call) -> bool:
    modes = [a.value for a in (*call.args, *(k.value for k in call.keywords))
             if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax") for mode in modes)


def opens(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that open a file for reading by its path."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Name(id="open"):
                found = not is_writing(call)
            case ast.Attribute(attr="open", value=ast.Name(id=name)) if name[:1].isupper():
                found = False  # a class method such as AdapterFolder.open
            case ast.Attribute(attr="open", value=ast.Name(id="os")):
                found = "O_WRONLY" not in ast.unparse(call)
            case ast.Attribute(attr="open"):
                found = not is_writing(call) and not ast.unparse(call.func).startswith("archive.")
            case ast.Attribute(attr="read_text" | "read_bytes"):
                found = len(call.args) < 2  # with a size limit it is AdapterFolder's or BaseFiles'
            case _:
                found = False
        if found:
            yield call.lineno


def test_files_are_opened_in_one_module() -> None:
    found = {
        str(path.relative_to(PACKAGE)): list(opens(ast.parse(path.read_text("utf-8"))))
        for path in PACKAGE.rglob("*.py")
        if "bundled" not in path.parts
    }
    places = {name: lines for name, lines in found.items() if lines}
    assert {name: lines for name, lines in places.items() if name not in ALLOWED} == {}
    assert set(ALLOWED) - set(found) == set()


@pytest.mark.parametrize(
    "code",
    ["open(p)", "open(p, 'rb')", "p.open()", "p.open('rb')", "io.open(p)", "os.open(p, 0)",
     "p.read_text()", "p.read_text('utf-8')", "(a / b).read_bytes()", "Path(p).open(mode='r')"],
)  # fmt: skip
def test_opening_a_file_elsewhere_would_be_found(code: str) -> None:
    assert list(opens(ast.parse(code))) == [1]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_path_that_is_not_a_regular_file_is_an_os_error_at_once(
    kind: str, tmp_path: Path
) -> None:
    path = UNREADABLE[kind](tmp_path / "x")
    started = time.monotonic()
    for read in (read_regular, read_text, require_regular):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - any errno
            read(path, 1 << 20)
        assert caught.value.strerror
    assert time.monotonic() - started < 1


def test_a_regular_file_is_also_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b", 9) == b"\xef\xbb\xbfa\r\nb\rc"
    assert read_text(tmp_path / "b", 9, "utf-8-sig") == "a\nb\nc"
    with open_regular(tmp_path / "b") as handle:
        assert handle.read(3) == b"\xef\xbb\xbf"
    require_regular(tmp_path / "b", 9)
    with pytest.raises(OSError, match=r"^larger than 8 bytes$"):
        read_regular(tmp_path / "b", 8)


def test_a_file_that_is_replaced_by_a_pipe_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    true = os.open

    def swapped(path: str, flags: int) -> int:
        Path(path).unlink()
        os.mkfifo(path)
        return true(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match=r"^not a regular file: it is a pipe$"):
        read_regular(tmp_path / "a", 9)


def test_a_file_that_grows_is_read_up_to_the_limit(tmp_path: Path) -> None:
    """Files in /proc report a size of zero."""
    with pytest.raises(OSError, match=r"^larger than 3 bytes$"):
        read_regular("/proc/self/status", 3)


def test_a_folder_for_a_library_contains_only_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"")
    reading.require_regular_below(tmp_path)
    os.mkfifo(tmp_path / "a" / "c")
    with pytest.raises(OSError, match="it is a pipe"):
        reading.require_regular_below(tmp_path)
