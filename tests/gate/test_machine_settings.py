"""The device and the dtype of a run are determined once, and are stated."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError, MissingDependencyError
from phi3_lora_qa.gate.machine_settings import describe_machine, on_this_machine
from phi3_lora_qa.settings import GateSettings
from tests.gate.builders import make_settings

absent = find_spec("bitsandbytes") is None


@pytest.fixture
def settings(good_adapter: Path, tmp_path: Path) -> GateSettings:
    return make_settings(good_adapter, tmp_path)


def test_on_a_cpu_auto_is_float32_and_the_record_says_why(settings: GateSettings) -> None:
    found = on_this_machine(replace(settings, device="cpu"))
    assert (found.device, found.dtype) == ("cpu", "float32")
    assert on_this_machine(found) == found
    assert describe_machine(found) == {
        "device": "cpu", "dtype": "float32", "dtype_source": "the default on cpu",
    }  # fmt: skip


def test_a_dtype_that_was_set_is_kept(good_adapter: Path, tmp_path: Path) -> None:
    settings = make_settings(good_adapter, tmp_path, dtype="bfloat16", device="cpu")
    found = on_this_machine(settings)
    assert found.dtype == "bfloat16"
    assert describe_machine(found)["dtype_source"] == "--phi3-dtype"


def test_without_a_stage_that_runs_a_model_nothing_is_determined(settings: GateSettings) -> None:
    static = replace(settings, stage=("static",), device="cuda:99")
    assert on_this_machine(static) == static
    assert describe_machine(static) == {}


def test_a_device_that_is_not_there_is_refused(settings: GateSettings) -> None:
    with pytest.raises(InputError, match=r"no device cuda:99: torch can use cpu"):
        on_this_machine(replace(settings, device="cuda:99"))


def test_a_server_cannot_be_told_to_quantize(settings: GateSettings) -> None:
    served = replace(settings, backend="openai:http://localhost:8000/v1", quantization="nf4")
    with pytest.raises(InputError, match="--phi3-quantization nf4 has no effect: a server"):
        on_this_machine(served)


@pytest.mark.skipif(not absent, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_pip_line_is_named(settings: GateSettings) -> None:
    words = r'--phi3-quantization int8 needs .*bitsandbytes.*pip install "phi3-lora-qa\[qlora\]"'
    with pytest.raises(MissingDependencyError, match=words):
        on_this_machine(replace(settings, quantization="int8"))


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "cuda:01", "CPU", "mps:0", "cuda:999"])
def test_an_invalid_device_is_refused(text: str, good_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a valid device; use auto, cpu, cuda, cuda:N"):
        make_settings(good_adapter, tmp_path, device=text)
