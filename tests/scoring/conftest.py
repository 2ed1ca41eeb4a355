"""The bundled base, a random Phi-3 with the same tokenizer, a server, and items."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.scoring.completions_client import READ_BACK_ITEMS
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.builders import item
from tests.scoring.serving import QUICK, ModelServer, serve, tuned_model


@pytest.fixture(scope="session")
def make_phi3(tiny: LoadedBase) -> Callable[..., Any]:
    """A function that makes an untrained Phi-3: its answers seldom stop."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    def make(**config: Any) -> Any:
        torch.manual_seed(5)
        small = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}
        settings = {**tiny.model.config.to_dict(), **small, "dtype": "float32", **config}
        model = Phi3ForCausalLM(Phi3Config(**settings)).eval()
        model.generation_config = tiny.model.generation_config
        for parameter in model.parameters():
            parameter.data.mul_(3.0)  # far from uniform, so that all losses differ
        return model

    return make


@pytest.fixture(scope="session")
def random_phi3(make_phi3: Callable[..., Any]) -> Any:
    return make_phi3()


@pytest.fixture(scope="session")
def suite() -> tuple[Item, ...]:
    return read_suite([bundled("tiny") / "suite.jsonl"])


@pytest.fixture(scope="session")
def ragged(suite: tuple[Item, ...]) -> tuple[Item, ...]:
    """Two dozen items of very different lengths, some with several turns or a system turn."""
    some = list(suite[:: len(suite) // 20])
    words = " ".join(item.reference for item in suite[:12])
    some += [
        item(id="long", question=f"Tell me: {words}", answer="small"),
        item(id="long-answer", question="What?", answer=words),
        Item(
            id="turns",
            prompt=(
                Message(role="system", content="Be brief."),
                Message(role="user", content="What is a lobster?"),
                Message(role="assistant", content="An animal."),
                Message(role="user", content="How large is it?"),
            ),
            reference="The lobster is small.",
        ),
    ]
    return tuple(some)


@pytest.fixture(scope="session")
def tuned(good_adapter: Path) -> Any:
    return tuned_model(good_adapter)


@pytest.fixture
def served(tiny: LoadedBase, tuned: Any) -> ModelServer:
    return ModelServer(tiny.tokenizer, {"tiny": tiny.model, "adapter": tuned})


@pytest.fixture
def server(served: ModelServer) -> Iterator[Server]:
    stops = frozenset(served.models["tiny"].generation_config.eos_token_id)
    with serve(served) as url:
        yield Server(url=url, stops=stops, limits=QUICK)


@pytest.fixture(scope="session")
def few(ragged: tuple[Item, ...]) -> tuple[Item, ...]:
    """Some items; the answer to the last one is not read back."""
    assert len(ragged[::4]) > READ_BACK_ITEMS
    return ragged[::4]
