"""A base on a hub is inspected remotely; the hub here is a small server.

It serves what the hub's client requests: sizes, hashes and ranges of files.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.adapter.packing import pack
from tests.adapter.tiny_base import base_tensors, write_base

pytestmark = pytest.mark.slow

REPOSITORY = "acme/phi-3-tiny"


class Hub(ThreadingHTTPServer):
    folder: Path
    sent = 0


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, *, body: bool) -> None:
        prefix = f"/{REPOSITORY}/resolve/main/"
        path = self.server.folder / self.path.removeprefix(prefix)
        if not self.path.startswith(prefix) or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        size = len(data)
        requested = self.headers.get("Range", "")
        if requested:
            first, _, last = requested.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("ETag", f'"{path.name}{size}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.server.sent += len(data)
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.folder = write_base(tmp_path / "served")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def lint(hub: Hub, adapter: Path, base: str = REPOSITORY) -> tuple[int, dict[str, object], str]:
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_CACHE": str(hub.folder.parent / "cache"),
        "HF_HUB_OFFLINE": "0",
    }
    program = "from phi3_lora_qa.cli import main; main()"
    command = [sys.executable, "-c", program, "lint", str(adapter), "--base", base]
    done = subprocess.run(
        [*command, "--format", "json"], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_an_adapter_is_compared_with_a_base_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    status, report, errors = lint(hub, plain().save(tmp_path / "good"))
    assert status == 0, errors
    assert not any("needs the base" in text for text in report["summary"]["unchecked"])  # type: ignore[index]
    for fault in ("half the rows", "too many layers", "delta almost zero"):
        adapter = spoil(plain(), fault, 0.5).save(tmp_path / fault)
        assert lint(hub, adapter)[0] == 1


def test_the_model_is_never_downloaded(hub: Hub, tmp_path: Path) -> None:
    rows = {"model.embed_tokens.weight": 200_000, "lm_head.weight": 200_000}
    tensors = base_tensors()
    for name, count in rows.items():
        tensors[name] = tensors[name].repeat(count // len(tensors[name]) + 1, axis=0)
    (hub.folder / "model.safetensors").write_bytes(pack(tensors))
    config = json.loads((hub.folder / "config.json").read_text())
    config["vocab_size"] = len(tensors["model.embed_tokens.weight"])
    (hub.folder / "config.json").write_text(json.dumps(config))
    size = (hub.folder / "model.safetensors").stat().st_size
    assert size > 20_000_000
    status, report, errors = lint(hub, plain().save(tmp_path / "good"))
    assert status == 0, (report, errors)
    assert hub.sent < size / 4


def test_shards_are_found_by_their_index(hub: Hub, tmp_path: Path) -> None:
    tensors = base_tensors()
    parts = {"a.safetensors": dict(list(tensors.items())[:5])}
    parts["b.safetensors"] = dict(list(tensors.items())[5:])
    for name, part in parts.items():
        (hub.folder / name).write_bytes(pack(part))
    (hub.folder / "model.safetensors").unlink()
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert lint(hub, plain().save(tmp_path / "good"))[0] == 0


def test_a_base_that_is_not_on_the_hub_is_reported_in_one_line(hub: Hub, tmp_path: Path) -> None:
    adapter = plain().save(tmp_path / "good")
    (hub.folder / "config.json").write_text("{}")
    for base in ("acme/other", REPOSITORY):
        status, _, errors = lint(hub, adapter, base)
        assert status == 2
        assert len(errors.splitlines()) == 1, errors
        assert errors.startswith("phi3-lora-qa: error: ")


def test_an_unreachable_hub_is_reported_in_one_line_within_seconds(
    hub: Hub, tmp_path: Path
) -> None:
    adapter = plain().save(tmp_path / "good")
    hub.shutdown()
    hub.server_close()
    start = time.monotonic()
    status, _, errors = lint(hub, adapter)
    assert status == 2
    assert time.monotonic() - start < 15
    (line,) = errors.splitlines()
    assert line.startswith("phi3-lora-qa: error: cannot reach the hub")
    assert line.endswith("pass the base as a folder")
