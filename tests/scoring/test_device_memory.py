"""A batch that does not fit is halved; an item that does not fit alone is the machine's fault."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import MachineError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ScoringOptions, score_items
from phi3_lora_qa.scoring.device_memory import free_on, is_out_of_memory, release_unused
from tests.scoring.builders import assert_same_scores

OPTIONS = ScoringOptions(max_new_tokens=20, token_budget=100_000)


def with_memory_for(model: Any, tokens: int, passes: list[int]) -> Callable[[], None]:
    """Let a model's head run out of memory above a number of rows, as a small GPU would."""

    def check(module: Any, args: Any) -> None:
        passes.append(len(args[0]))
        if len(args[0]) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = model.get_output_embeddings().register_forward_pre_hook(check)
    removed: Callable[[], None] = handle.remove
    return removed


@pytest.mark.parametrize("room", [60, 25])
def test_scores_of_halved_batches_are_the_same(
    room: int, random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    items = [item for item in ragged if len(item.reference.split()) < 15][:12]
    expected = score_items(random_phi3, tiny.tokenizer, items, OPTIONS)
    passes: list[int] = []
    remove = with_memory_for(random_phi3, room, passes)
    try:
        found = score_items(random_phi3, tiny.tokenizer, items, OPTIONS)
    finally:
        remove()
    assert any(rows > room for rows in passes)
    # Once a batch was too large, the later ones are as small: not every one fails first.
    assert sum(rows > room for rows in passes) <= 8
    assert not any(score.error for score in found)
    assert_same_scores(found, expected)


def test_an_item_that_does_not_fit_alone_is_named_with_what_helps(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    remove = with_memory_for(random_phi3, 1, [])
    words = r"cpu ran out of memory on the item long\S* alone, .* tokens: .*--phi3-dtype bfloat16"
    try:
        with pytest.raises(MachineError, match=words):
            score_items(random_phi3, tiny.tokenizer, ragged[-4:], OPTIONS)
    finally:
        remove()


def test_only_torchs_own_error_is_a_lack_of_a_devices_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_cpu_has_no_limit_of_its_own_and_nothing_to_release() -> None:
    assert free_on(torch.device("cpu")) is None
    release_unused(torch.device("cpu"))
