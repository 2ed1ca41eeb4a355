"""Losses and divergences are compared with torch's own, over whole distributions."""

from types import SimpleNamespace
from typing import Any

import pytest

from phi3_lora_qa.scoring.losses import (
    TOP_K,
    TopKLogprobs,
    greedy_tokens,
    logit_blocks,
    score_targets,
)


def head(vocabulary: int, sharpness: float, seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    linear = torch.nn.Linear(8, vocabulary)
    linear.weight.data.mul_(sharpness)
    return SimpleNamespace(
        config=SimpleNamespace(vocab_size=vocabulary), get_output_embeddings=lambda: linear
    )


@pytest.mark.parametrize("vocabulary", [5, 400])
@pytest.mark.parametrize("sharpness", [1.0, 30.0])
def test_the_divergence_is_a_lower_bound_and_exact_if_the_top_k_are_all_tokens(
    vocabulary: int, sharpness: float
) -> None:
    import torch

    base, tuned = head(vocabulary, sharpness, 0), head(vocabulary, sharpness, 1)
    hidden, targets = torch.randn(50, 8), torch.randint(0, vocabulary, (50,))
    with torch.inference_mode():
        first = score_targets(logit_blocks(base, hidden), targets)
        found = score_targets(logit_blocks(tuned, hidden), targets, first.top_k)
        p, q = (m.get_output_embeddings()(hidden).double().log_softmax(-1) for m in (base, tuned))
    exact = (p.exp() * (p - q)).sum(-1)
    expected = -q.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.losses.double(), expected, rtol=1e-6, atol=1e-5)
    assert first.top_k is not None
    assert first.top_k.tokens.shape == (50, min(TOP_K, vocabulary))
    assert bool((found.divergence <= exact + 1e-5).all())
    assert bool((found.divergence >= 0).all())
    if vocabulary <= TOP_K:
        torch.testing.assert_close(found.divergence.double(), exact, rtol=1e-4, atol=1e-5)
    else:
        assert float(found.divergence.mean()) > 0.1 * float(exact.mean())
    assert found.agreement.tolist() == (p.argmax(-1) == q.argmax(-1)).float().tolist()


def test_a_model_does_not_diverge_from_itself() -> None:
    import torch

    model, hidden = head(300, 5.0, 0), torch.randn(20, 8)
    targets = torch.zeros(20, dtype=torch.int64)
    with torch.inference_mode():
        first = score_targets(logit_blocks(model, hidden), targets)
        again = score_targets(logit_blocks(model, hidden), targets, first.top_k)
    assert float(again.divergence.max()) < 1e-6
    assert float(again.agreement.min()) == 1.0
    assert again.top_k is None


def test_the_divergence_is_finite_for_a_token_that_the_other_model_rules_out() -> None:
    import torch

    model, hidden = head(4, 1.0, 0), torch.randn(1, 8)
    certain = TopKLogprobs(
        tokens=torch.tensor([[2, 0]], dtype=torch.int32),
        log_probabilities=torch.tensor([[0.0, -torch.inf]]),
    )
    with torch.inference_mode():
        found = score_targets(logit_blocks(model, hidden), torch.tensor([0]), certain)
        expected = -model.get_output_embeddings()(hidden).log_softmax(-1)[0, 2]
    assert float(found.divergence) == pytest.approx(float(expected), rel=1e-5)


def test_the_greedy_tokens_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model, hidden = head(300, 5.0, 0), torch.randn(20, 8)
    with torch.inference_mode():
        whole = greedy_tokens(logit_blocks(model, hidden))
        monkeypatch.setattr("phi3_lora_qa.scoring.losses._BLOCK_SIZE", 7 * 300)
        assert greedy_tokens(logit_blocks(model, hidden)).tolist() == whole.tolist()
