"""Fixtures for a user's own tests of the adapter. The gate itself uses none of them.

All have session scope. Base and tuned model share one copy of the weights. With several adapters,
each test runs once for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from phi3_lora_qa.data.chat_items import Message
    from phi3_lora_qa.gate.adapter_session import AdapterSession
    from phi3_lora_qa.gate.gate_session import GateSession

SESSION: "pytest.StashKey[GateSession]" = pytest.StashKey()
"""The key of the gate session in pytest's stash. Checks use no fixtures."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of base and tuned model to one prompt."""

    base: str
    tuned: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the adapter once for each adapter."""
    session = metafunc.config.stash.get(SESSION, None)
    if session is None or len(session.jobs) < 2:
        return
    if "_phi3_session" in metafunc.fixturenames:
        names = [job.name for job in session.jobs]
        metafunc.parametrize("_phi3_session", range(len(names)), ids=names, indirect=True)


@pytest.fixture(scope="session")
def _phi3_session(request: pytest.FixtureRequest) -> "AdapterSession":
    session = request.config.stash.get(SESSION, None)
    if session is None:
        pytest.skip("no adapter was given; run pytest with --phi3-adapter=PATH")
    adapter_session = session.open_adapter(getattr(request, "param", 0))
    if refusal := adapter_session.adapter.refusal:
        pytest.skip(f"not run: {refusal}")
    return adapter_session


@pytest.fixture(scope="session")
def phi3_adapter(_phi3_session: "AdapterSession") -> Path:
    """The adapter's folder: the private copy that the gate checks."""
    return _phi3_session.adapter.copy


@pytest.fixture(scope="session")
def phi3_base_model(_phi3_session: "AdapterSession") -> Any:
    """The plain base in eval mode, without the adapter."""
    return _load_base(_phi3_session).model


@pytest.fixture(scope="session")
def phi3_tuned_model(_phi3_session: "AdapterSession") -> Any:
    """The PEFT model: the base with the adapter attached, in eval mode."""
    return _attach_adapter(_phi3_session)


@pytest.fixture(scope="session")
def phi3_tokenizer(_phi3_session: "AdapterSession") -> Any:
    """The base's tokenizer, with its chat template."""
    return _load_base(_phi3_session).tokenizer


@pytest.fixture(scope="session")
def phi3_generate(_phi3_session: "AdapterSession") -> Callable[..., str]:
    """A function ``(prompt, *, tuned=True, max_new_tokens=64) -> str``: the greedy answer."""

    def generate(
        prompt: "str | Sequence[Message]", *, tuned: bool = True, max_new_tokens: int = 64
    ) -> str:
        from phi3_lora_qa.models.quiet import quiet
        from phi3_lora_qa.scoring.generate import generate_answer

        base = _load_base(_phi3_session)
        model = _attach_adapter(_phi3_session) if tuned else base.model
        with quiet():
            return generate_answer(model, base.tokenizer, prompt, max_new_tokens)

    return generate


@pytest.fixture(scope="session")
def phi3_compare(phi3_generate: Callable[..., str]) -> Callable[..., Answers]:
    """A function ``(prompt) -> Answers``: the answers of both models to the same prompt."""

    def compare(prompt: "str | Sequence[Message]") -> Answers:
        return Answers(
            base=phi3_generate(prompt, tuned=False), tuned=phi3_generate(prompt, tuned=True)
        )

    return compare


def _load_base(session: "AdapterSession") -> Any:
    from phi3_lora_qa.models.quiet import quiet

    with quiet():
        return session.load_base()


def _attach_adapter(session: "AdapterSession") -> Any:
    from phi3_lora_qa.models.quiet import quiet

    with quiet():
        return session.attach_adapter()
