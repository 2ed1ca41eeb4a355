"""The merged folder is a plain model with the tuned model's logits; the inputs do not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3_lora_qa.models import merge
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base, weight_files
from phi3_lora_qa.models.merge import merge_to_folder, merged_tensors
from phi3_lora_qa.models.registry import BaseRef, resolve_base

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [5]}],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_the_merged_model_has_the_tuned_models_logits(
    settings: dict[str, Any],
    loaded: LoadedBase,
    make_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:
    before = checksum(loaded.model)
    tuned = attach(loaded.model, make_adapter(**settings))
    expected = logits(tuned)
    merge_to_folder(loaded, tuned, tmp_path / "merged")
    merged = load_base(resolve_base(str(tmp_path / "merged")))
    torch.testing.assert_close(logits(merged.model), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(tuned), expected)
    assert checksum(loaded.model) == before


def test_the_shards_are_limited_in_size_and_complete(
    loaded: LoadedBase,
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge, "SHARD_BYTES", 20_000)
    tuned = attach(loaded.model, make_adapter())
    merge_to_folder(loaded, tuned, tmp_path / "merged")
    assert len(weight_files(tmp_path / "merged")) > 1
    assert load_base(resolve_base(str(tmp_path / "merged")))


def test_a_tied_head_is_written_only_if_the_adapter_unties_it(
    tmp_path: Path, write_base: Callable[..., BaseRef], make_adapter: Callable[..., Path]
) -> None:
    base = load_base(write_base(tmp_path / "tied", tie_word_embeddings=True))
    for name, settings, is_tied in (
        ("plain", {}, True),
        ("head", {"modules_to_save": ["lm_head"]}, False),
    ):
        tuned = attach(base.model, make_adapter(base.ref, **settings))
        merge_to_folder(base, tuned, tmp_path / name)
        merged = load_base(resolve_base(str(tmp_path / name))).model
        assert merged.config.tie_word_embeddings == is_tied
        torch.testing.assert_close(logits(merged), logits(tuned), atol=1e-4, rtol=1e-4)
        names = [name for name, _ in merged_tensors(base, tuned, untied=not is_tied)]
        assert ("lm_head.weight" in names) == (not is_tied)
