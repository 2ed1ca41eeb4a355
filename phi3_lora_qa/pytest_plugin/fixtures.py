"""Fixtures for a user's own tests of the adapter at hand. The gate itself uses none of them.

All have session scope. Base and tuned model share one copy of the weights. Where several adapters
are gated, each test runs once for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from phi3_lora_qa.data.chat_items import Message
    from phi3_lora_qa.gate.bench import Bench
    from phi3_lora_qa.gate.context import Run

RUN: "pytest.StashKey[Run]" = pytest.StashKey()
"""Where a session that gates adapters keeps its run. Private: checks do not ask fixtures."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What base and tuned model answer to one prompt."""

    base: str
    tuned: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the adapter once for every adapter that was given."""
    run = metafunc.config.stash.get(RUN, None)
    if run is not None and len(run.targets) > 1 and "_phi3_bench" in metafunc.fixturenames:
        names = [target.name for target in run.targets]
        metafunc.parametrize("_phi3_bench", range(len(names)), ids=names, indirect=True)


@pytest.fixture(scope="session")
def _phi3_bench(request: pytest.FixtureRequest) -> "Bench":
    run = request.config.stash.get(RUN, None)
    if run is None:
        pytest.skip("no adapter was given; run pytest with --phi3-adapter=PATH")
    bench = run.bench(getattr(request, "param", 0))
    if refusal := bench.refusal():
        pytest.skip(refusal)
    return bench


@pytest.fixture(scope="session")
def phi3_adapter(_phi3_bench: "Bench") -> Path:
    """The adapter's folder: the private copy that the gate judges."""
    return _phi3_bench.folder.path


@pytest.fixture(scope="session")
def phi3_base_model(_phi3_bench: "Bench") -> Any:
    """The plain base in eval mode, without the adapter."""
    with _phi3_bench.run.quietly("fixture"):
        return _phi3_bench.run.base(_phi3_bench).model


@pytest.fixture(scope="session")
def phi3_tuned_model(_phi3_bench: "Bench") -> Any:
    """The PEFT model: the base with the adapter attached, in eval mode."""
    with _phi3_bench.run.quietly("fixture"):
        return _phi3_bench.tuned


@pytest.fixture(scope="session")
def phi3_tokenizer(_phi3_bench: "Bench") -> Any:
    """The base's tokenizer, with its chat template."""
    with _phi3_bench.run.quietly("fixture"):
        return _phi3_bench.run.base(_phi3_bench).tokenizer


@pytest.fixture(scope="session")
def phi3_generate(_phi3_bench: "Bench") -> Callable[..., str]:
    """A function ``(prompt, *, tuned=True, max_new_tokens=64) -> str``: the greedy answer."""

    def generate(
        prompt: "str | Sequence[Message]", *, tuned: bool = True, max_new_tokens: int = 64
    ) -> str:
        from phi3_lora_qa.scoring.generate import generate_answer

        with _phi3_bench.run.quietly("fixture"):
            base = _phi3_bench.run.base(_phi3_bench)
            model = _phi3_bench.tuned if tuned else base.model
            return generate_answer(model, base.tokenizer, prompt, max_new_tokens)

    return generate


@pytest.fixture(scope="session")
def phi3_compare(phi3_generate: Callable[..., str]) -> Callable[..., Answers]:
    """A function ``(prompt) -> Answers``: what base and tuned model say to the same prompt."""

    def compare(prompt: "str | Sequence[Message]") -> Answers:
        return Answers(
            base=phi3_generate(prompt, tuned=False), tuned=phi3_generate(prompt, tuned=True)
        )

    return compare
