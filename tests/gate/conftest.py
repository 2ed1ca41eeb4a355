"""Sessions of the bundled adapter on the tiny base, as the gate opens them."""

import gc
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.setting_specs import STAGES
from tests.gate.builders import MakeSession, make_gate_session, make_settings


@pytest.fixture(scope="session", autouse=True)
def what_is_imported_stays() -> None:
    """Exclude imported modules from the garbage collections that follow each release of a model."""
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
def make_session(tmp_path: Path, good_adapter: Path) -> MakeSession:
    """A function that opens the session of an adapter, by default the good one."""
    numbers = count()

    def make(
        adapter: Path | None = None, *, stages: tuple[str, ...] = STAGES, **options: object
    ) -> AdapterSession:
        settings = make_settings(adapter or good_adapter, tmp_path, **options)
        folder = tmp_path / f"run-{next(numbers)}"
        return make_gate_session(settings, folder, stages).open_adapter(0)

    return make
