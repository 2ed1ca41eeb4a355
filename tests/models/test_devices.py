"""The device of a run: found by a real allocation, and refused with those that there are."""

import sys

import pytest
import torch

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.models import devices
from phi3_lora_qa.models.devices import (
    choose_device,
    default_dtype,
    devices_of,
    find_devices,
    hardware_name,
    usable_gpus,
)

HAS_GPU = len(find_devices().names) > 1


def test_the_cpu_always_works_and_needs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_devices", None)  # it would be called
    assert choose_device("cpu") == "cpu"
    assert find_devices().names[0] == "cpu"


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    words = rf"no device {name}: torch can use cpu \(.+\); pass one of them with --phi3-device"
    with pytest.raises(InputError, match=words):
        choose_device(name)


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == "cpu"
    monkeypatch.setattr(sys, "platform", "darwin")  # where only torch can tell
    assert choose_device("auto") == "cpu"


def test_auto_is_the_first_kind_of_gpu_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = devices.FoundDevices(names=("cpu", "cuda:1", "cuda:2"), reason="cuda:0 is not usable")
    monkeypatch.setattr(devices, "find_devices", lambda: found)
    monkeypatch.setattr(devices, "_may_have_gpu", lambda: True)
    chosen = [choose_device(name) for name in ("auto", "cuda", "cuda:2")]
    assert chosen == ["cuda", "cuda", "cuda:2"]
    assert usable_gpus() == (1, 2)
    with pytest.raises(InputError, match=r"torch can use cpu, cuda:1, cuda:2 \(cuda:0 is not"):
        choose_device("cuda:0")


def test_a_device_without_memory_or_driver_has_a_fault() -> None:
    assert devices._fault_of("cpu") == ""
    if not HAS_GPU:
        assert devices._fault_of("cuda:0")


def test_on_a_cpu_models_are_scored_in_float32_and_it_has_no_name() -> None:
    assert (default_dtype("cpu"), default_dtype("mps"), hardware_name("cpu")) == (
        "float32", "float32", "",
    )  # fmt: skip


def test_the_devices_of_a_model_are_those_of_its_tensors() -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1, device="meta")])
    assert devices_of(model) == ("cpu", "meta")
