"""What a server is asked, and that its figures are relied on only where they agree."""

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.completions_client import MAX_GAP
from phi3_lora_qa.scoring.remote_scoring import Server
from tests.scoring.faulty_replies import told, with_choice, with_values
from tests.scoring.serving import OPTIONS, Raw, Reply, Served


def test_the_prompt_goes_over_as_the_tokens_of_the_bases_template(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    server.score("tiny", tiny.tokenizer, few[:1], OPTIONS)
    turns = [{"role": turn.role, "content": turn.content} for turn in few[0].prompt]
    ids = tiny.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    echo, answer, read_back = (body for _, body in served.asked)
    assert answer["prompt"] == ids
    assert echo["prompt"][: len(ids)] == ids
    assert read_back["prompt"][: len(ids)] == ids
    assert (echo["echo"], echo["max_tokens"], answer["temperature"]) == (True, 0, 0)


def test_a_server_that_ignores_echo_ends_the_scoring_with_the_reason(
    served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    for ignoring in (
        lambda true: with_choice(true, logprobs=None),
        lambda true: with_values(true, [-0.5]),
        lambda true: with_choice(true, logprobs={"content": [{"logprob": -1}]}),
    ):
        served.fault = lambda _path, _body, _number, true, fault=ignoring: fault(true)
        with pytest.raises(BaseModelError, match=r"no log-probabilities of a prompt.*vLLM"):
            server.score("tiny", tiny.tokenizer, few, OPTIONS)


@pytest.mark.parametrize("gap", [0.2, 0.05])
def test_a_server_that_reads_its_answers_otherwise_than_it_wrote_them_is_not_relied_on(
    gap: float, served: Served, server: Server, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    """As vLLM does it, without a word, with an adapter on lm_head; rounding is let pass."""

    def otherwise(_path: str, body: Reply, _number: int, true: Reply) -> Reply | Raw:
        if not body.get("echo"):
            return true
        return with_values(true, [None, *(value - gap for value in told(true)[1:])])

    served.fault = otherwise
    if gap < MAX_GAP:
        scores = server.score("tiny", tiny.tokenizer, few, OPTIONS)
        assert not any(score.error for score in scores)
        return
    with pytest.raises(BaseModelError, match=r"0\.2 nats apart.*no loss from it can be relied on"):
        server.score("tiny", tiny.tokenizer, few, OPTIONS)
