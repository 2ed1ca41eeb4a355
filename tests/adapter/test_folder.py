import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MAX_ENTRIES,
    WEIGHTS,
    AdapterFolder,
    EntryKind,
)
from phi3_lora_qa.errors import AdapterError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / CONFIG).write_bytes(b"{}")
    (path / WEIGHTS).write_bytes(b"weights")
    (path / "optimizer.pt").write_bytes(b"pickle")
    return path


def test_a_path_that_is_not_a_folder_is_an_error_with_a_fix(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", folder / CONFIG, Path("a\0b")):
        with pytest.raises(AdapterError, match=CONFIG):
            AdapterFolder.open(path)


def test_a_folder_of_adapters_is_an_error_that_lists_them(tmp_path: Path) -> None:
    for name in ("first", "second", "checkpoint-10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_bytes(b"{}")
    (tmp_path / "logs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "first")
    with pytest.raises(AdapterError) as caught:
        AdapterFolder.open(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not an adapter, but 3 of its sub-folders are; pass one of them: "
        f"{tmp_path / 'checkpoint-10'}, {tmp_path / 'first'}, {tmp_path / 'second'}"
    )


def test_an_adapter_may_have_adapters_in_its_sub_folders(folder: Path) -> None:
    (folder / "second").mkdir()
    (folder / "second" / CONFIG).write_bytes(b"{}")
    for name in (CONFIG, WEIGHTS):
        assert AdapterFolder.open(folder).entries["second"].kind is EntryKind.FOLDER
        (folder / name).unlink()
    with pytest.raises(AdapterError, match="not an adapter, but 1 of its sub-folders"):
        AdapterFolder.open(folder)


def test_only_some_of_many_adapters_are_listed(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"a{number:02}").mkdir()
        (tmp_path / f"a{number:02}" / CONFIG).touch()
    with pytest.raises(AdapterError, match=r"but 20 of its .*/a07 and 12 more$"):
        AdapterFolder.open(tmp_path)


def test_regular_files_are_read_and_hashed(folder: Path) -> None:
    opened = AdapterFolder.open(folder)
    assert opened.read_bytes(WEIGHTS, 100) == b"weights"
    assert opened.sha256(WEIGHTS) == hashlib.sha256(b"weights").hexdigest()
    assert set(opened.hashes()) == {CONFIG, WEIGHTS}


def test_a_file_above_the_size_limit_is_not_read(folder: Path) -> None:
    with pytest.raises(AdapterError, match="too large: 7 bytes, at most 3"):
        AdapterFolder.open(folder).read_bytes(WEIGHTS, 3)


def test_pickles_are_never_opened(folder: Path) -> None:
    opened = AdapterFolder.open(folder)
    assert opened.entries["optimizer.pt"].is_pickle
    with pytest.raises(AdapterError):
        opened.open_file("optimizer.pt")


def test_links_pipes_sockets_and_folders_are_listed_and_not_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "link").symlink_to(folder / WEIGHTS)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder)  # the path of a socket is limited to about 100 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        opened = AdapterFolder.open(folder)
    kinds = {name: opened.entries[name].kind for name in ("link", "dangling", "pipe", "socket")}
    assert kinds == {
        "link": EntryKind.LINK,
        "dangling": EntryKind.LINK,
        "pipe": EntryKind.OTHER,
        "socket": EntryKind.OTHER,
    }
    for name in (*kinds, "inside", "../adapter/" + WEIGHTS, "absent"):
        with pytest.raises(AdapterError):
            opened.open_file(name)


@pytest.mark.parametrize("change", ["content", "link", "pipe", "gone"])
def test_reading_a_file_that_changed_since_listing_is_an_error(folder: Path, change: str) -> None:
    opened = AdapterFolder.open(folder)
    path = folder / WEIGHTS
    path.unlink()
    if change == "content":
        path.write_bytes(b"others!")
    elif change == "link":
        path.symlink_to(CONFIG)
    elif change == "pipe":
        os.mkfifo(path)
    with pytest.raises(AdapterError):
        opened.sha256(WEIGHTS)


def test_too_many_entries_are_an_error(tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(AdapterError, match="the folder of one adapter"):
        AdapterFolder.open(tmp_path)


def test_a_snapshot_contains_every_file_that_ships(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").symlink_to(CONFIG)
    (folder / "optimizer.pt").write_text("")
    (folder / "merged.gguf").write_text("")
    (folder / "sub").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    before = AdapterFolder.open(folder)
    copy = before.snapshot(tmp_path / "private")
    assert set(copy.entries) == {CONFIG, WEIGHTS, "config.json", "notes.txt"}
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    assert copy.hashes() == before.hashes()
    (folder / WEIGHTS).write_bytes(b"changed later")
    assert copy.read_bytes(WEIGHTS, 100) == b"weights"


def test_a_snapshot_does_not_overwrite(folder: Path, tmp_path: Path) -> None:
    opened = AdapterFolder.open(folder)
    opened.snapshot(tmp_path / "private")
    with pytest.raises(AdapterError, match="cannot copy"):
        opened.snapshot(tmp_path / "private")


def test_a_partial_copy_is_an_error(
    tmp_path: Path,
) -> None:
    """With a limit on the file size, the first write is partial."""
    resource = pytest.importorskip("resource")
    place = tmp_path / "adapter"
    place.mkdir()
    (place / CONFIG).write_text("{}")
    (place / WEIGHTS).write_bytes(bytes(200_000))
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from phi3_lora_qa.adapter.folder import AdapterFolder\n"
        "folder = AdapterFolder.open(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "folder.snapshot(Path(sys.argv[2]))\n"
    )
    assert resource
    command = [sys.executable, "-B", "-c", code, str(place), str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "cannot copy the adapter" in done.stderr


def test_a_single_file_is_answered_with_the_command_for_kohyas_format(tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match="convert kohya-to-peft FILE --base BASE -o DIR"):
        AdapterFolder.open(tmp_path / "lora.safetensors")
    (tmp_path / "x.json").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"not a file in it$"):
        AdapterFolder.open(tmp_path / "x.json")
