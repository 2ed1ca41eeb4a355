"""The gate with a server in place of loaded models: the quality stage, from end to end."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3_lora_qa.models import loading
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import bundled, resolve_base
from phi3_lora_qa.scoring.http_client import API_KEY_VARIABLE
from tests.pytest_plugin.builders import record_of
from tests.scoring.serving import ModelServer, serve, tuned_model

pytestmark = pytest.mark.usefixtures("one_thread")


def gate(
    pytester: pytest.Pytester, adapter: Path, url: str, *stages: str, more: tuple[str, ...] = ()
) -> pytest.RunResult:
    return pytester.runpytest_inprocess(
        f"--phi3-adapter={adapter}",
        "--phi3-report=out",
        f"--phi3-backend=openai:{url}",
        *(f"--phi3-stage={stage}" for stage in stages),
        *more,
    )


@pytest.fixture(scope="module")
def served(good_adapter: Path) -> ModelServer:
    base = load_base(resolve_base("tiny"))
    return ModelServer(base.tokenizer, {"tiny": base.model, "adapter": tuned_model(good_adapter)})


@pytest.fixture
def url(served: ModelServer) -> Iterator[str]:
    served.fault = None
    served.client_left.clear()
    with serve(served) as url:
        yield url


@pytest.fixture
def no_model_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded all the same is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)


@pytest.fixture
def short_suite(pytester: pytest.Pytester) -> tuple[str, ...]:
    """Options for a third of the bundled items, with the bundled limits."""
    lines = (bundled("tiny") / "suite.jsonl").read_text().splitlines(keepends=True)
    (pytester.path / "short.jsonl").write_text("".join(lines[::3]))
    return ("--phi3-suite=short.jsonl", f"--phi3-thresholds={bundled('tiny/thresholds.toml')}")


@pytest.mark.slow
@pytest.mark.usefixtures("no_model_here")
def test_a_good_adapter_passes_by_the_scores_of_a_server(
    pytester: pytest.Pytester,
    good_adapter: Path,
    url: str,
    served: ModelServer,
    short_suite: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "a-key-of-the-server")
    result = gate(pytester, good_adapter, url, "quality", more=short_suite)
    assert result.ret == 0, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "PASS"
    assert record.settings["backend"].value == f"openai:{url}"
    phases = [timing.phase for timing in record.timings]
    assert phases == [
        "score base, served as tiny",
        "score tuned, served as adapter",
        "compute metrics",
    ]
    assert served.headers[-1]["Authorization"] == "Bearer a-key-of-the-server"
    written = b"".join(path.read_bytes() for path in (pytester.path / "out").iterdir())
    assert b"a-key-of-the-server" not in written + result.stdout.str().encode()


@pytest.mark.usefixtures("no_model_here")
def test_a_server_that_is_away_leaves_the_gate_incomplete_with_one_line(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        result = gate(pytester, good_adapter, address, "quality")
    assert result.ret == 1, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "INCOMPLETE"
    assert f"the server {address} cannot be reached" in record.reason
    assert "start it, or" in record.reason
    messages = {check.message for check in record.checks}
    assert len(messages) == 1
    assert not any("\n" in message for message in messages)
    assert record.seconds < 30  # it was waited for once, and not in each check


@pytest.mark.usefixtures("no_model_here")
def test_an_adapter_that_is_not_served_leaves_the_gate_incomplete(
    pytester: pytest.Pytester, good_adapter: Path, served: ModelServer
) -> None:
    with serve(ModelServer(served.tokenizer, {"tiny": None, "other": None})) as url:
        result = gate(pytester, good_adapter, url, "quality")
    assert result.ret == 1, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "INCOMPLETE"
    assert "does not serve the adapter as adapter: it serves tiny, other" in record.reason


@pytest.mark.slow
def test_the_other_stages_run_here_and_ask_no_server(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    """An export is held against the tuned model of this process."""
    stages = ("static", "math", "checkpoint", "export")
    result = gate(pytester, good_adapter, "http://127.0.0.1:9/v1", *stages)
    assert result.ret == 0, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "PASS"
    phases = {timing.phase for timing in record.timings}
    assert {"load base", "score tuned here", "score merged"} <= phases


def test_a_backend_that_is_none_is_one_line_and_status_2(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, "ftp://127.0.0.1/v1")
    assert result.ret == 2
    (line,) = [line for line in result.stderr.lines if line.startswith("Exit: ")]
    assert "openai:URL" in line
    assert "transformers" in line
