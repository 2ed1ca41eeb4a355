import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor, inf, ones, tensor, zeros

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.training_run import require_learned, resolve_dtype, training_defaults

START = {"a.lora_A": ones(2, 3), "a.lora_B": zeros(3, 2)}


def test_an_adapter_whose_zero_factor_changed_is_accepted() -> None:
    require_learned(START, {**START, "a.lora_B": ones(3, 2)})


@pytest.mark.parametrize("end", [START, {**START, "a.lora_A": ones(2, 3) * 0.9}])
def test_an_adapter_whose_delta_is_still_zero_is_rejected(end: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="training has not changed the adapter"):
        require_learned(START, end)


def test_a_variant_without_zero_factors_must_have_changed() -> None:
    start = {"a.lora_A": ones(2, 3), "a.lora_B": ones(3, 2)}
    with pytest.raises(InputError, match="training has not changed the adapter"):
        require_learned(start, dict(start))
    require_learned(start, {**start, "a.lora_A": zeros(2, 3)})


@pytest.mark.parametrize("value", [inf, -inf, float("nan")])
def test_an_adapter_that_is_not_finite_is_rejected_with_the_tensors_name(value: float) -> None:
    end = {**START, "a.lora_B": tensor([[value]])}
    with pytest.raises(InputError, match=r"a\.lora_B contains values that are not finite"):
        require_learned(START, end)


def test_without_an_accelerator_the_defaults_are_for_a_cpu() -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    assert resolve_dtype("auto") == "float32"
    defaults = training_defaults("bfloat16", Path("checkpoints"))
    assert defaults["use_cpu"]
    assert not defaults["bf16"]
    assert not defaults["gradient_checkpointing"]
    assert defaults["report_to"] == "none"


def test_the_package_and_its_command_import_no_heavy_library() -> None:
    code = (
        "import sys, phi3_lora_qa.training, phi3_lora_qa.cli.train\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'accelerate'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
