"""Cached outputs are found bit for bit under the same conditions, and never under others."""

import os
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ScoringOptions, score_items
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from phi3_lora_qa.scoring.losses import TopKLogprobs
from phi3_lora_qa.scoring.prompts import TokenizedItem
from phi3_lora_qa.scoring.score_cache import MAX_FILES, SUFFIX, ScoreCache

CONDITIONS = {"base": "0" * 64, "threads": 1}


def item(number: int = 0) -> TokenizedItem:
    return TokenizedItem(id="a", prompt=(1, 2, number), reference=(3, 4), answer_limit=12)


def output(loss: float = 0.1) -> ItemOutput:
    import torch

    top_k = TopKLogprobs(
        tokens=torch.tensor([[5, 6], [7, 8]], dtype=torch.int32),
        log_probabilities=torch.tensor([[-0.1, -3.0], [-0.2, -2.0]]),
    )
    return ItemOutput(loss=loss, answer=(9, 2), choices=(-1.5, -2.0, -loss), top_k=top_k)


def save(folder: Path, *numbers: int) -> Path:
    ScoreCache(folder, CONDITIONS).add([(item(n), output(0.1 + n)) for n in numbers])
    (path,) = folder.glob(f"*{SUFFIX}")
    return path


def test_cached_outputs_are_found_bit_for_bit(tmp_path: Path) -> None:
    import torch

    save(tmp_path, 0, 1)
    save(tmp_path, 2)
    cache = ScoreCache(tmp_path, CONDITIONS)
    for number in range(3):
        found, expected = cache.find(item(number)), output(0.1 + number)
        assert found is not None
        assert found.top_k is not None
        assert expected.top_k is not None
        assert (found.loss, found.answer) == (expected.loss, expected.answer)
        assert found.choices == expected.choices
        assert torch.equal(found.top_k.tokens, expected.top_k.tokens)
        assert torch.equal(found.top_k.log_probabilities, expected.top_k.log_probabilities)
    assert cache.find(item(3)) is None
    assert cache.hits == 3


@pytest.mark.parametrize("changed", [{"base": "1" * 64}, {"threads": 2}, {"more": 1}])
def test_outputs_cached_under_other_conditions_are_not_found(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    save(tmp_path, 0)
    assert ScoreCache(tmp_path, CONDITIONS | changed).find(item()) is None


def test_the_key_is_an_items_tokens_and_not_its_id(tmp_path: Path) -> None:
    from dataclasses import replace

    save(tmp_path, 0)
    cache = ScoreCache(tmp_path, CONDITIONS)
    assert cache.find(replace(item(), id="b"))
    for change in ({"prompt": (1,)}, {"reference": (3,)}, {"answer_limit": 13}):
        assert cache.find(replace(item(), **change)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "pickle"])
def test_a_damaged_file_counts_as_empty_and_is_replaced(tmp_path: Path, damage: str) -> None:
    import numpy as np

    path = save(tmp_path, 0)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        index = data.index(np.float64(0.1).tobytes())
        data[index] ^= 1
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    elif damage == "other":
        data[:] = b"not an archive"
    path.write_bytes(data)
    if damage == "pickle":
        with path.open("wb") as file:
            np.savez(file, keys=np.array([os.system], dtype=object))
    assert ScoreCache(tmp_path, CONDITIONS).find(item()) is None
    save(tmp_path, 0)
    assert ScoreCache(tmp_path, CONDITIONS).find(item())


def test_a_folder_that_cannot_be_written_is_reported_and_raises_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    cache = ScoreCache(file / "folder", CONDITIONS)
    cache.add([(item(), output())])
    assert cache.find(item())
    assert str(file) in cache.write_error
    assert ScoreCache(file / "folder", CONDITIONS).find(item()) is None


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    for number in range(MAX_FILES + 3):
        old = tmp_path / f"{number}{SUFFIX}"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    ScoreCache(tmp_path, CONDITIONS).add([(item(), output())])
    left = {path.name for path in tmp_path.glob(f"*{SUFFIX}")}
    assert len(left) == MAX_FILES
    assert f"0{SUFFIX}" not in left
    assert ScoreCache(tmp_path, CONDITIONS).find(item())


def test_cached_scores_are_equal_to_computed_ones(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...], tmp_path: Path
) -> None:
    options = ScoringOptions(max_new_tokens=20, token_budget=600)

    def score(items: tuple[Item, ...]) -> tuple[object, int]:
        cache = ScoreCache(tmp_path, CONDITIONS)
        scores = score_items(random_phi3, tiny.tokenizer, items, options, cache=cache)
        return scores, cache.hits

    cold, _ = score(ragged)
    warm, found = score(ragged)
    assert warm == cold
    assert found == len(ragged)
    longer = (*ragged, Item(id="new", prompt=ragged[0].prompt, reference="something else"))
    _, found = score(longer)
    assert found == len(ragged)


def test_failed_items_are_not_cached(
    tiny: LoadedBase, ragged: tuple[Item, ...], tmp_path: Path
) -> None:
    import copy
    import math

    broken = copy.deepcopy(tiny.model)
    broken.model.norm.weight.data[0] = math.nan
    options = ScoringOptions(max_new_tokens=4)
    scores = score_items(
        broken, tiny.tokenizer, ragged[:3], options, cache=ScoreCache(tmp_path, CONDITIONS)
    )
    assert all(score.error for score in scores)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("kind", ["pipe", "zero", "loop", "folder"])
def test_a_path_that_is_not_a_regular_file_counts_as_empty_without_blocking(
    kind: str, tmp_path: Path
) -> None:
    path = save(tmp_path, 0)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else path)
    assert ScoreCache(tmp_path, CONDITIONS).find(item()) is None
