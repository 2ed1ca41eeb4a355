"""The base is scored once for many adapters and runs; the cache returns nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.models import devices
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.scoring import prepacked_linear
from tests.gate.builders import MakeSession

pytestmark = pytest.mark.slow


def test_a_run_with_cached_base_scores_has_the_same_figures(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))

    def rows(cache_scores: str) -> tuple[object, object]:
        session = make_session(cache_scores=cache_scores)
        with quiet():
            found = session.comparison.compare_items()
        notes = [piece.environment for piece in session.log.journal.evidence()]
        (cached,) = [n["base_scores_cached"] for n in notes if "base_scores_cached" in n]
        return found, cached

    cold, first = rows("on")
    count = len(cold)  # type: ignore[arg-type]
    assert first == f"0 of {count}"
    warm, second = rows("on")
    assert second == f"{count} of {count}"
    assert warm == cold
    off, third = rows("off")
    assert third == f"0 of {count}"
    assert off == cold


def test_another_base_finds_nothing_in_the_cache(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base with one other weight is another base."""
    from safetensors.torch import load_file, save_file

    from phi3_lora_qa.models.registry import bundled

    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))
    session = make_session(cache_scores="on")
    with quiet():
        before = session.comparison.score_base()
    other = tmp_path / "tiny"
    shutil.copytree(bundled("tiny") / "base", other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    session = make_session(
        cache_scores="on", base=str(other), suite=[str(bundled("tiny") / "suite.jsonl")]
    )
    with quiet():
        after = session.comparison.score_base()
    assert all(b.loss != a.loss for b, a in zip(before, after, strict=True))


def multiplies_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another processor, or with another build of torch."""
    monkeypatch.setattr(prepacked_linear, "_why_not_packed", lambda dtype: "not here")


def is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another GPU under the same name."""
    monkeypatch.setattr(devices, "hardware_name", lambda device: "another one")


@pytest.mark.parametrize("change", [multiplies_differently, is_another_device])
def test_a_base_that_is_computed_differently_is_scored_again(
    change: Callable[[pytest.MonkeyPatch], None],
    make_session: MakeSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))

    def cached() -> tuple[object, ...]:
        session = make_session(cache_scores="on")
        with quiet():
            session.comparison.score_base()
        notes = [piece.environment for piece in session.log.journal.evidence()]
        return tuple(n["base_scores_cached"] for n in notes if "base_scores_cached" in n)

    cached()
    (again,) = cached()
    assert not str(again).startswith("0 of")
    change(monkeypatch)
    (other,) = cached()
    assert str(other).startswith("0 of")


def test_the_record_says_how_the_layers_of_base_and_adapter_multiply(
    make_session: MakeSession,
) -> None:
    """Each by itself, and also after the base was loaded again."""
    session = make_session(dtype="bfloat16")
    with quiet():
        model = session.attach_adapter()
        base, tuned = map(prepacked_linear.matmul_backends, (session.load_base().model, model))
        session.comparison.score_exported(
            session.load_base(), model, session.job.items[:2], "score"
        )
        session.models.release()
        session.load_base()
    found: dict[str, object] = {}
    for piece in session.log.journal.evidence():
        found |= {k: v for k, v in piece.environment.items() if k.startswith("products_")}
    assert found == {
        **{f"products_base_{dtype}": how for dtype, how in base.items()},
        **{f"products_tuned_{dtype}": how for dtype, how in tuned.items()},
    }
    assert "products_base_bfloat16" in found
    assert "products_tuned_bfloat16" in found
