import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor, inf, ones, tensor, zeros

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.training_run import require_learned, resolve_dtype, training_defaults

START = {"a.lora_A": ones(2, 3), "a.lora_B": zeros(3, 2)}


def test_an_adapter_whose_zero_factor_moved_is_accepted() -> None:
    require_learned(START, {**START, "a.lora_B": ones(3, 2)})


@pytest.mark.parametrize("end", [START, {**START, "a.lora_A": ones(2, 3) * 0.9}])
def test_an_adapter_whose_delta_is_still_zero_is_refused(end: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="training has changed nothing"):
        require_learned(START, end)


def test_a_variant_that_begins_without_zeros_must_have_moved() -> None:
    start = {"a.lora_A": ones(2, 3), "a.lora_B": ones(3, 2)}
    with pytest.raises(InputError, match="training has changed nothing"):
        require_learned(start, dict(start))
    require_learned(start, {**start, "a.lora_A": zeros(2, 3)})


@pytest.mark.parametrize("value", [inf, -inf, float("nan")])
def test_an_adapter_that_is_not_finite_is_refused_by_the_name_of_the_tensor(value: float) -> None:
    end = {**START, "a.lora_B": tensor([[value]])}
    with pytest.raises(InputError, match=r"a\.lora_B holds values that are no numbers"):
        require_learned(START, end)


def test_without_an_accelerator_the_defaults_are_those_of_a_cpu() -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    assert resolve_dtype("auto") == "float32"
    defaults = training_defaults("bfloat16", Path("checkpoints"))
    assert defaults["use_cpu"]
    assert not defaults["bf16"]
    assert not defaults["gradient_checkpointing"]
    assert defaults["report_to"] == "none"


def test_the_room_and_its_command_are_imported_without_the_libraries_that_train() -> None:
    code = (
        "import sys, phi3_lora_qa.training, phi3_lora_qa.cli.train\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'accelerate'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
