"""A workbench with the bundled adapter on it, as the plugin would set it up."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.context import Run
from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.prepare import prepare, snapshot
from phi3_lora_qa.settings import resolve

MakeBench = Callable[..., Bench]


def fails(check: Callable[..., Any], bench: Any) -> CheckFailedError:
    with pytest.raises(CheckFailedError) as caught, bench.run.quietly("math"):
        check(bench)
    assert caught.value.fix
    return caught.value


def holds(check: Callable[..., Any], bench: Any) -> str:
    with bench.run.quietly("math"):
        return str(check(bench).message)


def attached(bench: Bench) -> Bench:
    """Attach the adapter, before a fault is planted in what attaches it."""
    with bench.run.quietly("math"):
        _ = bench.tuned
    return bench


@pytest.fixture(scope="session", autouse=True)
def what_is_imported_stays() -> None:
    """A gate collects garbage whenever it lets go of a model: all of torch need not be searched."""
    from phi3_lora_qa.models.attach import attach
    from phi3_lora_qa.models.loading import load_base
    from phi3_lora_qa.models.registry import bundled, resolve_base

    attach(load_base(resolve_base("tiny")).model, bundled("tiny") / "adapter")
    gc.collect()
    gc.freeze()


@pytest.fixture
def lora_linear() -> Any:
    from peft.tuners.lora.layer import Linear

    return Linear


@pytest.fixture
def make_bench(tmp_path: Path, good_adapter: Path) -> MakeBench:
    """A function that puts an adapter (the good one if none is given) on a workbench."""

    def make(adapter: Path | None = None, **options: object) -> Bench:
        common = {"base": "tiny", "cache_scores": "off", "early_stop": "off"}
        options = {"adapter": [adapter or good_adapter], **common, **options}
        settings = resolve(options, {}, {}, tmp_path, tmp_path)
        folder = tmp_path / "run"
        folder.mkdir()
        targets = prepare(settings)
        snapshot(targets, folder)
        run = Run(settings=settings, targets=targets, folder=folder, journal=Journal(folder=folder))
        return run.bench(0)

    return make
