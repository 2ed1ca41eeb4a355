"""A server with OpenAI's completions API that serves the bundled base and adapter.

It really computes, with transformers and peft only, in the simplest way.
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

Response = Mapping[str, Any]
Raw = bytes | tuple[int, bytes] | None
"""What a fault sends instead: a body, a status with a body, or nothing until the client leaves."""


class ModelServer:
    """The served models, and the server's faults.

    If ``strict``, the server rejects fields that OpenAI does not have, does not generate zero
    tokens, and returns no token ids. ``fault`` gets the path, the body and the number of each
    request and the correct response, and returns what is sent instead.
    """

    def __init__(self, tokenizer: Any, models: Mapping[str, Any]) -> None:
        self.tokenizer, self.models = tokenizer, models
        self.strict = False
        self.fault: Callable[[str, Response, int, Response], Response | Raw] | None = None
        self.requests: list[tuple[str, Response]] = []
        self.headers: list[Mapping[str, str]] = []
        self.client_left = threading.Event()
        self._lock = threading.Lock()

    def respond(
        self, path: str, body: Response, headers: Mapping[str, str]
    ) -> tuple[int, Response] | Raw:
        with self._lock:
            self.requests.append((path, body))
            self.headers.append(headers)
            number = len(self.requests)
            status, correct = self._correct_response(path, body)
        if self.fault is None:
            return status, correct
        sent = self.fault(path, body, number, correct)
        return (status, sent) if isinstance(sent, Mapping) else sent

    def _correct_response(self, path: str, body: Response) -> tuple[int, Response]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path != "/v1/completions" or body["model"] not in self.models:
            return 404, {"error": {"message": "no such model or path"}}
        if self.strict and (extra := sorted(set(body) - STANDARD)):
            return 422, {"detail": f"Unexpected fields in the request: {extra}"}
        if self.strict and body["max_tokens"] == 0:
            return 400, {"error": {"message": "max_tokens must be at least 1"}}
        return 200, {"choices": [self._choice(self.models[body["model"]], body)]}

    def _choice(self, model: Any, body: Response) -> Response:
        import torch

        prompt = torch.tensor([body["prompt"]])
        named = self.tokenizer.convert_tokens_to_ids(body.get("stop", []))
        stops = body.get("stop_token_ids") or named or [self.tokenizer.eos_token_id]
        with torch.inference_mode():
            whole = (
                model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    do_sample=False,
                    max_new_tokens=body["max_tokens"],
                    eos_token_id=stops,
                    pad_token_id=0,
                )[0].tolist()
                if body["max_tokens"]
                else list(body["prompt"])
            )
            logits = model(input_ids=torch.tensor([whole])).logits[0, :-1].double()
        generated = whole[prompt.shape[1] :]
        shown = whole if body.get("echo") else generated
        choice: dict[str, Any] = {
            "text": self.tokenizer.decode(shown, skip_special_tokens=not self.strict),
            "finish_reason": "stop" if generated and generated[-1] in stops else "length",
        }
        if body.get("logprobs") is not None:
            table = torch.log_softmax(logits, dim=-1)
            logprobs = [
                None,
                *(float(row[token]) for row, token in zip(table, whole[1:], strict=True)),
            ]
            choice["logprobs"] = {"token_logprobs": logprobs[len(whole) - len(shown) :]}
        if body.get("return_token_ids"):
            choice |= {"token_ids": generated, "prompt_token_ids": body["prompt"]}
        return choice


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: separately, each would wait for an acknowledgement
    served: ModelServer

    def do_GET(self) -> None:
        self._send(self.served.respond(self.path, {}, dict(self.headers)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(self.served.respond(self.path, body, dict(self.headers)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: tests read the output."""

    def _send(self, response: tuple[int, Response] | Raw) -> None:
        if response is None:
            self.served.client_left.wait(30)
            self.close_connection = True
            return
        status, body = response if isinstance(response, tuple) else (200, response)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(served: ModelServer) -> Iterator[str]:
    """Run a server; yield its URL."""
    handler = type("ModelHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            served.client_left.set()
            httpd.shutdown()
            thread.join()


def tuned_model(adapter: Path) -> Any:
    """Return the bundled base with an adapter, attached by peft itself."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(resolve_base("tiny")).model, str(adapter)).eval()
