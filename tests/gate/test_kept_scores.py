"""The base is scored once for many adapters and many runs; nothing else can come from the cache."""

import shutil
from pathlib import Path

import pytest

from phi3_lora_qa.scoring import prepacked_linear
from tests.gate.conftest import MakeBench

pytestmark = pytest.mark.slow


def test_a_run_with_a_kept_base_has_the_same_figures(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))

    def rows(keep: str) -> tuple[object, object]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        bench = make_bench(cache_scores=keep)
        with bench.run.quietly("quality"):
            found = bench.rows
        notes = [piece.environment for piece in bench.run.journal.evidence()]
        (kept,) = [n["base_scores_kept"] for n in notes if "base_scores_kept" in n]
        return found, kept

    cold, first = rows("on")
    count = len(cold)  # type: ignore[arg-type]
    assert first == f"0 of {count}"
    warm, second = rows("on")
    assert second == f"{count} of {count}"
    assert warm == cold
    off, third = rows("off")
    assert third == f"0 of {count}"
    assert off == cold


def test_another_base_finds_nothing_kept(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single weight makes another base."""
    from safetensors.torch import load_file, save_file

    from phi3_lora_qa.models.registry import bundled

    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))
    bench = make_bench(cache_scores="on")
    with bench.run.quietly("quality"):
        before = bench.run.base_scores(bench)
    other = tmp_path / "tiny"
    shutil.copytree(bundled("tiny") / "base", other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(tmp_path / "run")
    bench = make_bench(
        cache_scores="on", base=str(other), suite=[str(bundled("tiny") / "suite.jsonl")]
    )
    with bench.run.quietly("quality"):
        after = bench.run.base_scores(bench)
    assert all(b.loss != a.loss for b, a in zip(before, after, strict=True))


def test_a_base_that_was_multiplied_otherwise_is_scored_again(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another processor, or with another build of torch."""
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))

    def kept() -> tuple[object, ...]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        bench = make_bench(cache_scores="on")
        with bench.run.quietly("quality"):
            bench.run.base_scores(bench)
        notes = [piece.environment for piece in bench.run.journal.evidence()]
        return tuple(n["base_scores_kept"] for n in notes if "base_scores_kept" in n)

    kept()
    (again,) = kept()
    assert not str(again).startswith("0 of")
    monkeypatch.setattr(prepacked_linear, "_why_not_packed", lambda dtype: "not here")
    (otherwise,) = kept()
    assert str(otherwise).startswith("0 of")


def test_the_record_says_how_the_layers_of_base_and_adapter_multiply(make_bench: MakeBench) -> None:
    """Each by itself, and also after the base was loaded again."""
    bench = make_bench(dtype="bfloat16")
    with bench.run.quietly("quality"):
        model = bench.tuned
        base, tuned = map(prepacked_linear.matmul_backends, (bench.run.base(bench).model, model))
        bench.run.score(bench, bench.run.base(bench), model, "score", bench.target.items[:2])
        bench.run.release_base()
        bench.run.base(bench)
    found: dict[str, object] = {}
    for piece in bench.run.journal.evidence():
        found |= {k: v for k, v in piece.environment.items() if k.startswith("products_")}
    assert found == {
        **{f"products_base_{dtype}": how for dtype, how in base.items()},
        **{f"products_tuned_{dtype}": how for dtype, how in tuned.items()},
    }
    assert "products_base_bfloat16" in found
    assert "products_tuned_bfloat16" in found
