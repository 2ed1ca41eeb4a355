"""The requests to a server, and that inconsistent log-probabilities are refused."""

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.completions_client import MAX_GAP
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_responses import logprobs_of, with_choice, with_values
from tests.scoring.serving import OPTIONS, ModelServer, Raw, Response


def test_the_prompt_is_sent_as_the_tokens_of_the_bases_template(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    server.score("tiny", tiny.tokenizer, few[:1], OPTIONS)
    turns = [{"role": turn.role, "content": turn.content} for turn in few[0].prompt]
    ids = tiny.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    echo, answer, read_back = (body for _, body in served.requests)
    assert answer["prompt"] == ids
    assert echo["prompt"][: len(ids)] == ids
    assert read_back["prompt"][: len(ids)] == ids
    assert (echo["echo"], echo["max_tokens"], answer["temperature"]) == (True, 0, 0)


def test_a_server_that_ignores_echo_ends_the_scoring_with_the_reason(
    served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    for ignoring in (
        lambda correct: with_choice(correct, logprobs=None),
        lambda correct: with_values(correct, [-0.5]),
        lambda correct: with_choice(correct, logprobs={"content": [{"logprob": -1}]}),
    ):
        served.fault = lambda _path, _body, _number, correct, fault=ignoring: fault(correct)
        with pytest.raises(BaseModelError, match=r"no log-probabilities of a prompt.*vLLM"):
            server.score("tiny", tiny.tokenizer, few, OPTIONS)


@pytest.mark.parametrize("gap", [0.2, 0.05])
def test_a_server_that_scores_its_own_answers_differently_is_rejected(
    gap: float, served: ModelServer, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    """vLLM does so silently with an adapter on lm_head; rounding is allowed."""

    def differently(_path: str, body: Response, _number: int, correct: Response) -> Response | Raw:
        if not body.get("echo"):
            return correct
        return with_values(correct, [None, *(value - gap for value in logprobs_of(correct)[1:])])

    served.fault = differently
    if gap < MAX_GAP:
        scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
        assert not any(score.error for score in scores)
        return
    with pytest.raises(BaseModelError, match=r"are inconsistent: .* differ by 0\.2 nats per token"):
        server.score("tiny", tiny.tokenizer, few, OPTIONS)
