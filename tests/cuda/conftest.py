"""Skips every test of this folder, with the reason, where torch can use no GPU.

Only ``make test-gpu`` (``-m cuda``) shows the GPUs to the tests. It fails without one: nothing was
tested.
"""

import pytest

from phi3_lora_qa.models.devices import find_devices

REASON = "no GPU that torch can use (make test-gpu shows GPUs to the tests): "


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that are marked `cuda` without a GPU; refuse a run of nothing else."""
    found = find_devices()
    if any(name.startswith("cuda") for name in found.names):
        return
    if config.option.markexpr == "cuda":
        raise pytest.UsageError(f"nothing was tested, no GPU that torch can use: {found.reason}")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=REASON + found.reason))
