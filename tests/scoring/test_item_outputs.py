"""The scores of a batch are split by item, and compared with the base where it is known."""

import math
from dataclasses import replace

import torch

from phi3_lora_qa.scoring.item_outputs import ItemOutput, score_references
from phi3_lora_qa.scoring.prompts import TokenizedItem

VOCABULARY = 6
BATCH = [
    TokenizedItem(id="a", prompt=(1,), reference=(2, 3, 0), answer_limit=4),
    TokenizedItem(id="b", prompt=(1,), reference=(4,), answer_limit=4),
]


def scored(seed: int, base: dict[str, ItemOutput]) -> list[tuple[ItemOutput, list[int]]]:
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    blocks = [(slice(0, 3), logits[:3].clone()), (slice(3, 6), logits[3:].clone())]
    return score_references(blocks, BATCH, base)


def test_every_item_has_the_mean_loss_of_its_own_reference() -> None:
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0))
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3, 0, 4]), reduction="none")
    (first, first_predicted), (second, second_predicted) = scored(0, {})
    assert math.isclose(first.loss, float(losses[:3].mean()), rel_tol=1e-6)
    assert math.isclose(second.loss, float(losses[3]), rel_tol=1e-6)
    assert [*first_predicted, *second_predicted] == logits.argmax(-1).tolist()
    assert first.top_k is not None
    assert first.top_k.tokens.shape == (3, VOCABULARY)
    assert math.isnan(first.divergence)


def test_a_batch_is_compared_only_if_the_base_is_known_for_all_of_its_items() -> None:
    base = {item.id: output for item, (output, _) in zip(BATCH, scored(0, {}), strict=True)}
    for output, _ in scored(0, base):
        assert output.divergence < 1e-6
        assert output.agreement == 1.0
        assert output.top_k is None
    assert any(output.divergence > 0.01 for output, _ in scored(1, base))
    for partial in ({"a": base["a"]}, {**base, "b": replace(base["b"], top_k=None)}):
        assert all(math.isnan(output.divergence) for output, _ in scored(0, partial))
