"""Readings on disk: found to the bit under the same conditions, and never under others."""

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
from phi3_lora_qa.scoring.score_cache import MOST_FILES, SUFFIX, ScoreCache

CONDITIONS = {"base": "0" * 64, "threads": 1}


def item(number: int = 0) -> TokenizedItem:
    return TokenizedItem(id="a", prompt=(1, 2, number), reference=(3, 4), answer_limit=12)


def reading(loss: float = 0.1) -> ItemOutput:
    import torch

    outlook = TopKLogprobs(
        tokens=torch.tensor([[5, 6], [7, 8]], dtype=torch.int32),
        log_probabilities=torch.tensor([[-0.1, -3.0], [-0.2, -2.0]]),
    )
    return ItemOutput(loss=loss, answer=(9, 2), choices=(-1.5, -2.0, -loss), outlook=outlook)


def keep(folder: Path, *numbers: int) -> Path:
    ScoreCache(folder, CONDITIONS).add([(item(n), reading(0.1 + n)) for n in numbers])
    (path,) = folder.glob(f"*{SUFFIX}")
    return path


def test_what_was_kept_is_found_to_the_bit(tmp_path: Path) -> None:
    import torch

    keep(tmp_path, 0, 1)
    keep(tmp_path, 2)
    kept = ScoreCache(tmp_path, CONDITIONS)
    for number in range(3):
        found, wanted = kept.find(item(number)), reading(0.1 + number)
        assert found is not None
        assert found.outlook is not None
        assert wanted.outlook is not None
        assert (found.loss, found.answer) == (wanted.loss, wanted.answer)
        assert found.choices == wanted.choices
        assert torch.equal(found.outlook.tokens, wanted.outlook.tokens)
        assert torch.equal(found.outlook.log_probabilities, wanted.outlook.log_probabilities)
    assert kept.find(item(3)) is None
    assert kept.found == 3


@pytest.mark.parametrize("changed", [{"base": "1" * 64}, {"threads": 2}, {"more": 1}])
def test_other_conditions_find_nothing(tmp_path: Path, changed: dict[str, object]) -> None:
    keep(tmp_path, 0)
    assert ScoreCache(tmp_path, CONDITIONS | changed).find(item()) is None


def test_an_items_id_counts_for_nothing_and_its_tokens_for_everything(tmp_path: Path) -> None:
    from dataclasses import replace

    keep(tmp_path, 0)
    kept = ScoreCache(tmp_path, CONDITIONS)
    assert kept.find(replace(item(), id="b"))
    for change in ({"prompt": (1,)}, {"reference": (3,)}, {"answer_limit": 13}):
        assert kept.find(replace(item(), **change)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "pickle"])
def test_a_damaged_file_holds_nothing_and_is_written_anew(tmp_path: Path, damage: str) -> None:
    import numpy as np

    path = keep(tmp_path, 0)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        place = data.index(np.float64(0.1).tobytes())
        data[place] ^= 1
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "empty":
        data.clear()
    elif damage == "other":
        data[:] = b"no archive at all"
    path.write_bytes(data)
    if damage == "pickle":
        with path.open("wb") as file:
            np.savez(file, names=np.array([os.system], dtype=object))
    assert ScoreCache(tmp_path, CONDITIONS).find(item()) is None
    keep(tmp_path, 0)
    assert ScoreCache(tmp_path, CONDITIONS).find(item())


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    kept = ScoreCache(file / "folder", CONDITIONS)
    kept.add([(item(), reading())])
    assert kept.find(item())
    assert str(file) in kept.trouble
    assert ScoreCache(file / "folder", CONDITIONS).find(item()) is None


def test_old_files_go(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 3):
        old = tmp_path / f"{number}{SUFFIX}"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    keep_path = ScoreCache(tmp_path, CONDITIONS)
    keep_path.add([(item(), reading())])
    left = {path.name for path in tmp_path.glob(f"*{SUFFIX}")}
    assert len(left) == MOST_FILES
    assert f"0{SUFFIX}" not in left
    assert ScoreCache(tmp_path, CONDITIONS).find(item())


def test_scores_from_disk_are_those_that_were_computed(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...], tmp_path: Path
) -> None:
    options = ScoringOptions(max_new_tokens=20, token_budget=600)

    def score(items: tuple[Item, ...]) -> tuple[object, int]:
        kept = ScoreCache(tmp_path, CONDITIONS)
        scores = score_items(random_phi3, tiny.tokenizer, items, options, kept=kept)
        return scores, kept.found

    cold, _ = score(ragged)
    warm, found = score(ragged)
    assert warm == cold
    assert found == len(ragged)
    longer = (*ragged, Item(id="new", prompt=ragged[0].prompt, reference="something else"))
    _, found = score(longer)
    assert found == len(ragged)


def test_what_went_wrong_is_not_kept(
    tiny: LoadedBase, ragged: tuple[Item, ...], tmp_path: Path
) -> None:
    import copy
    import math

    sick = copy.deepcopy(tiny.model)
    sick.model.norm.weight.data[0] = math.nan
    options = ScoringOptions(max_new_tokens=4)
    scores = score_items(
        sick, tiny.tokenizer, ragged[:3], options, kept=ScoreCache(tmp_path, CONDITIONS)
    )
    assert all(score.error for score in scores)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("kind", ["pipe", "zero", "loop", "folder"])
def test_what_is_no_file_holds_nothing_and_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = keep(tmp_path, 0)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else path)
    assert ScoreCache(tmp_path, CONDITIONS).find(item()) is None
