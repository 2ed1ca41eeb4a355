"""Items beyond LongRoPE's threshold are scored alone, by transformers' own generate."""

from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ScoringOptions, score_items
from phi3_lora_qa.scoring.batch_engine import BatchEngine
from phi3_lora_qa.scoring.long_context import longrope_threshold
from tests.scoring.builders import longrope

OPTIONS = ScoringOptions(max_new_tokens=10)


def test_the_threshold_is_the_original_context_of_the_config(
    make_phi3: Any, random_phi3: Any
) -> None:
    assert longrope_threshold(make_phi3(**longrope(64))) == 64
    assert longrope_threshold(random_phi3) == 4096


def test_only_items_beyond_the_threshold_leave_the_batch_engine(
    make_phi3: Any,
    tiny: LoadedBase,
    ragged: tuple[Item, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths: list[int] = []
    run = BatchEngine.run

    def counting(engine: Any, batch: Any, *arguments: Any) -> Any:
        lengths.extend(item.length for item in batch)
        return run(engine, batch, *arguments)

    monkeypatch.setattr(BatchEngine, "run", counting)
    scores = score_items(make_phi3(**longrope(64)), tiny.tokenizer, ragged, OPTIONS)
    assert not any(score.error for score in scores)
    assert 0 < len(lengths) < len(ragged)
    assert max(lengths) <= 64
