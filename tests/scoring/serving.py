"""A server with OpenAI's completions API before the bundled base and adapter.

It is a real one: it computes with transformers and peft alone, in the plainest way.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring import ScoringOptions
from phi3_lora_qa.scoring.http_client import RequestLimits

OPTIONS = ScoringOptions(max_new_tokens=40)
QUICK = RequestLimits(timeout=20.0, connect=2.0, attempts=3, pause=0.01)
STANDARD = {"model", "prompt", "max_tokens", "temperature", "top_p", "stop", "echo", "logprobs"}

Reply = Mapping[str, Any]
Raw = bytes | tuple[int, bytes] | None
"""What a fault sends instead: a body, a status with a body, or nothing until the caller is gone."""


class Served:
    """The models behind a server, and what is wrong with it.

    ``strict`` refuses fields that OpenAI does not know and to generate nothing, and keeps token ids
    to itself. ``fault`` sees each request (its path, its body, its number) and the true reply.
    """

    def __init__(self, tokenizer: Any, models: Mapping[str, Any]) -> None:
        self.tokenizer, self.models = tokenizer, models
        self.strict = False
        self.fault: Callable[[str, Reply, int, Reply], Reply | Raw] | None = None
        self.asked: list[tuple[str, Reply]] = []
        self.headers: list[Mapping[str, str]] = []
        self.gone = threading.Event()
        self._lock = threading.Lock()

    def reply(self, path: str, body: Reply, headers: Mapping[str, str]) -> tuple[int, Reply] | Raw:
        with self._lock:
            self.asked.append((path, body))
            self.headers.append(headers)
            number = len(self.asked)
            status, true = self._truly(path, body)
        if self.fault is None:
            return status, true
        said = self.fault(path, body, number, true)
        return (status, said) if isinstance(said, Mapping) else said

    def _truly(self, path: str, body: Reply) -> tuple[int, Reply]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path != "/v1/completions" or body["model"] not in self.models:
            return 404, {"error": {"message": "no such model or path"}}
        if self.strict and (extra := sorted(set(body) - STANDARD)):
            return 422, {"detail": f"Unexpected fields in the request: {extra}"}
        if self.strict and body["max_tokens"] == 0:
            return 400, {"error": {"message": "max_tokens must be at least 1"}}
        return 200, {"choices": [self._choice(self.models[body["model"]], body)]}

    def _choice(self, model: Any, body: Reply) -> Reply:
        import torch

        prompt = torch.tensor([body["prompt"]])
        named = self.tokenizer.convert_tokens_to_ids(body.get("stop", []))
        ends = body.get("stop_token_ids") or named or [self.tokenizer.eos_token_id]
        with torch.inference_mode():
            made = (
                model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    do_sample=False,
                    max_new_tokens=body["max_tokens"],
                    eos_token_id=ends,
                    pad_token_id=0,
                )[0].tolist()
                if body["max_tokens"]
                else list(body["prompt"])
            )
            logits = model(input_ids=torch.tensor([made])).logits[0, :-1].double()
        said = made[prompt.shape[1] :]
        shown = made if body.get("echo") else said
        choice: dict[str, Any] = {
            "text": self.tokenizer.decode(shown, skip_special_tokens=not self.strict),
            "finish_reason": "stop" if said and said[-1] in ends else "length",
        }
        if body.get("logprobs") is not None:
            table = torch.log_softmax(logits, dim=-1)
            told = [None, *(float(row[token]) for row, token in zip(table, made[1:], strict=True))]
            choice["logprobs"] = {"token_logprobs": told[len(made) - len(shown) :]}
        if body.get("return_token_ids"):
            choice |= {"token_ids": said, "prompt_token_ids": body["prompt"]}
        return choice


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, each would wait for an acknowledgement
    served: Served

    def do_GET(self) -> None:
        self._send(self.served.reply(self.path, {}, dict(self.headers)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.served.reply(self.path, body, dict(self.headers)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: tests read what is said."""

    def _send(self, said: tuple[int, Reply] | Raw) -> None:
        if said is None:
            self.served.gone.wait(30)
            self.close_connection = True
            return
        status, body = said if isinstance(said, tuple) else (200, said)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(served: Served) -> Iterator[str]:
    """Run a server; its URL is what the caller gets."""
    handler = type("ServedHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            served.gone.set()
            httpd.shutdown()
            thread.join()


def tuned_model(adapter: Path) -> Any:
    """The bundled base with an adapter on it, by peft alone."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(resolve_base("tiny")).model, str(adapter)).eval()
