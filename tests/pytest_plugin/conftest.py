"""Adapters and settings for tests that run pytest itself."""

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import numpy as np
import pytest

import phi3_lora_qa
from tests.pytest_plugin.builders import SAMPLE

LOOK = """
import json, sys
def pytest_unconfigure():
    heavy = [m for m in ("torch", "transformers", "peft", "pandas") if m in sys.modules]
    open("loaded.json", "w").write(json.dumps(heavy))
"""


@pytest.fixture(autouse=True)
def without_what_no_test_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off other plugins, which take most of pytest's start-up time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:anyio")
    monkeypatch.delenv(
        "PYTEST_XDIST_WORKER", raising=False
    )  # a run in this process is not a worker


@pytest.fixture
def nan_adapter(adapter_copy: Callable[[str], Path], pytester: pytest.Pytester) -> Path:
    """The good adapter with one NaN; a plugin that lists imported modules is in the project."""
    from safetensors.numpy import load_file, save_file

    (pytester.path / "look.py").write_text(LOOK)
    folder = adapter_copy("nan")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name].flat[0] = np.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def libraries(good_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import everything that a gate imports, by doing once what it does.

    pytester removes modules that a run in this process imported from sys.modules again, and torch,
    transformers, pandas' parquet types and our rules cannot be imported twice. It also saves each
    run from importing, and rewriting the assertions of, all our modules.
    """
    from peft.tuners.lora import layer  # noqa: F401

    for module in walk_packages(phi3_lora_qa.__path__, "phi3_lora_qa."):
        if not module.name.startswith(("phi3_lora_qa.__main__", "phi3_lora_qa.training")):
            import_module(module.name)
    from phi3_lora_qa.data.item_table import items_as_parquet
    from phi3_lora_qa.data.suite import read_suite
    from phi3_lora_qa.gate.comparison import measure, select_metrics
    from phi3_lora_qa.gate.item_rows import join_scores
    from phi3_lora_qa.gate.paired_scores import ComparisonConfig
    from phi3_lora_qa.models.attach import attach
    from phi3_lora_qa.models.loading import load_base
    from phi3_lora_qa.models.registry import bundled, resolve_base
    from phi3_lora_qa.scoring.score_items import ScoringOptions, score_items

    base = load_base(resolve_base("tiny"))
    items = read_suite([bundled("tiny") / "suite.jsonl"])[::60]
    scores = score_items(base.model, base.tokenizer, items, ScoringOptions())
    attach(base.model, good_adapter).unload()
    metrics = select_metrics((), ())
    rows = join_scores(items, scores, scores, metrics)
    measure(rows, ComparisonConfig(limits=(), metrics=metrics, seed=0))
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    path.write_bytes(items_as_parquet(rows))


@pytest.fixture
def one_thread(libraries: None) -> Iterator[None]:
    """Use one thread for each worker: tests share the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def passed(pytester: pytest.Pytester) -> Callable[..., Path]:
    """A function that puts an earlier report, with PASS, into a folder."""
    assert "PASS" in (SAMPLE / "summary.md").read_text(encoding="utf-8")

    def put(folder: str = "out") -> Path:
        shutil.copytree(SAMPLE, pytester.path / folder)
        return pytester.path / folder

    return put
