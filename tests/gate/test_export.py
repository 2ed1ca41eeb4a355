"""The export checks fail on a merged model that is another model, or has another vocabulary."""

from collections.abc import Iterator
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import export
from tests.gate.conftest import MakeBench, fails, holds

pytestmark = pytest.mark.slow


def test_export_holds_on_the_good_adapter(make_bench: MakeBench) -> None:
    assert "answers alike" in holds(export.exported_model_matches, make_bench())


def test_a_merged_model_that_answers_differently_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import merge

    monkeypatch.setattr(
        merge,
        "_merged_module",
        lambda module, adapter: (
            module.get_base_layer() if hasattr(module, "get_base_layer") else module
        ),
    )
    assert "differs" in fails(export.exported_model_matches, make_bench()).message


def test_a_merged_model_without_a_loss_is_found_wherever_the_item_stands(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from phi3_lora_qa.gate.context import Run

    real = Run.score_merged

    def last_is_nan(*args: Any) -> Any:
        scores = real(*args)
        return (*scores[:-1], replace(scores[-1], loss=float("nan")))

    monkeypatch.setattr(Run, "score_merged", last_is_nan)
    assert "nan" in fails(export.exported_model_matches, make_bench()).message


def test_a_table_that_grows_when_the_model_is_merged_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import merge

    real = merge.merged_tensors

    def padded(*args: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        for name, tensor in real(*args, **options):
            grown = (
                tensor.new_zeros(tensor.shape[0] + 8, tensor.shape[1]) if "lm_" in name else None
            )
            yield name, tensor if grown is None else grown

    monkeypatch.setattr(merge, "merged_tensors", padded)
    error = fails(export.exported_model_matches, make_bench())
    assert error.message.startswith("merged and saved, lm_head.weight is (")


def test_a_vocabulary_that_is_another_size_in_the_merged_models_config_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Phi3Config

    real = Phi3Config.save_pretrained

    def padded(self: Any, *args: Any, **options: Any) -> None:
        self.vocab_size += 8
        real(self, *args, **options)

    monkeypatch.setattr(Phi3Config, "save_pretrained", padded)
    error = fails(export.exported_model_matches, make_bench())
    assert "the vocabulary has" in error.message
    assert "rows" in error.message


def test_a_token_that_is_added_to_the_merged_models_tokenizer_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        kind: Any = type(bench.run.base(bench).tokenizer)
        _ = bench.tuned_scores
    real = kind.save_pretrained

    def one_more(self: Any, *args: Any, **options: Any) -> Any:
        import copy

        grown = copy.deepcopy(self)
        grown.add_tokens(["<extra>"])
        return real(grown, *args, **options)

    monkeypatch.setattr(kind, "save_pretrained", one_more)
    error = fails(export.exported_model_matches, bench)
    assert "tokens" in error.message
