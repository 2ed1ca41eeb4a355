import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.hub_push import push_adapter
from phi3_lora_qa.training.training_config import HubTable


class Refusing(BaseHTTPRequestHandler):
    """A hub that rejects every token."""

    requests: list[str]

    def do_POST(self) -> None:
        self.requests.append(self.path)
        self.send_response(401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def refusing_hub() -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []
    handler = type("Handler", (Refusing,), {"requests": requests})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_a_rejected_push_is_reported_with_the_adapters_folder_and_the_command(
    tmp_path: Path, refusing_hub: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    endpoint, requests = refusing_hub
    with pytest.raises(InputError) as caught:
        push_adapter(tmp_path, HubTable(repo_id="me/mine", endpoint=endpoint))
    assert requests == ["/api/repos/create"]
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).endswith(f"hf upload me/mine {tmp_path}")


def test_an_unreachable_hub_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pushing it to me/mine failed"):
        push_adapter(tmp_path, HubTable(repo_id="me/mine", endpoint="http://127.0.0.1:9"))


def test_an_invalid_repository_name_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="failed"):
        push_adapter(tmp_path, HubTable(repo_id="a/b/c d", endpoint="http://127.0.0.1:9"))
