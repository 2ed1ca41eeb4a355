"""The export check fails on a merged model that answers differently or has another vocabulary."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import export
from phi3_lora_qa.gate.quality_comparison import QualityComparison
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession, fails, passes

pytestmark = pytest.mark.slow


def test_export_passes_on_the_good_adapter(make_session: MakeSession) -> None:
    assert "24 of 24 answers are equal" in passes(export.exported_model_matches, make_session())


def test_a_merged_model_that_answers_differently_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import merge

    monkeypatch.setattr(
        merge,
        "_merged_module",
        lambda module, adapter: (
            module.get_base_layer() if hasattr(module, "get_base_layer") else module
        ),
    )
    assert "differs" in fails(export.exported_model_matches, make_session()).message


def test_a_merged_model_without_a_loss_for_the_last_item_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = QualityComparison.score_exported

    def last_is_nan(*args: Any) -> Any:
        scores = real(*args)
        return (*scores[:-1], replace(scores[-1], loss=float("nan")))

    monkeypatch.setattr(QualityComparison, "score_exported", last_is_nan)
    assert "nan" in fails(export.exported_model_matches, make_session()).message


def test_a_table_that_grows_when_the_model_is_merged_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
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
    outcome = fails(export.exported_model_matches, make_session())
    assert outcome.message.startswith(
        "the shape of the merged model's lm_head.weight differs from the base's: ("
    )


def test_another_vocabulary_size_in_the_merged_models_config_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Phi3Config

    real = Phi3Config.save_pretrained

    def padded(self: Any, *args: Any, **options: Any) -> None:
        self.vocab_size += 8
        real(self, *args, **options)

    monkeypatch.setattr(Phi3Config, "save_pretrained", padded)
    outcome = fails(export.exported_model_matches, make_session())
    assert "the size of the merged model's vocabulary differs" in outcome.message
    assert "rows instead of" in outcome.message


def test_a_token_that_is_added_to_the_merged_models_tokenizer_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    with quiet():
        kind: Any = type(session.load_base().tokenizer)
        session.comparison.score_tuned()
    real = kind.save_pretrained

    def one_more(self: Any, *args: Any, **options: Any) -> Any:
        import copy

        grown = copy.deepcopy(self)
        grown.add_tokens(["<extra>"])
        return real(grown, *args, **options)

    monkeypatch.setattr(kind, "save_pretrained", one_more)
    outcome = fails(export.exported_model_matches, session)
    assert "tokens" in outcome.message
