from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.manifest import read_manifest
from phi3_lora_qa.errors import BaseModelError, InputError, MissingDependencyError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import base_fingerprint

NF4: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_use_double_quant": True,
}
absent = find_spec("bitsandbytes") is None
needs_bitsandbytes = pytest.mark.skipif(absent, reason="bitsandbytes is not installed")
needs_absence = pytest.mark.skipif(not absent, reason="bitsandbytes is installed")


@needs_absence
@pytest.mark.parametrize(
    "changes", [{"quantization_config": NF4}, {"training": {"optim": "paged_adamw_8bit"}}]
)
def test_without_bitsandbytes_its_settings_are_rejected_with_the_pip_command(
    train_tiny: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        train_tiny(tmp_path / "adapter", **changes)
    assert str(caught.value).endswith('run: pip install "phi3-lora-qa[qlora]"')
    assert not (tmp_path / "adapter").exists()


@needs_bitsandbytes
def test_qlora_trains_an_adapter_for_the_unquantized_base(
    train_tiny: Any, tmp_path: Path, tiny: LoadedBase
) -> None:
    result = train_tiny(tmp_path / "adapter", quantization_config=NF4)
    assert result.loss_after < result.loss_before
    manifest = read_manifest(AdapterFolder.open(result.adapter))
    assert manifest is not None
    assert manifest.base_fingerprint == base_fingerprint(tiny.ref)
    tensors = load_file(result.adapter / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * tiny.model.config.num_hidden_layers
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


@needs_bitsandbytes
@pytest.mark.parametrize("value", ["float31", "nf4"])
def test_an_unknown_dtype_is_rejected(train_tiny: Any, tmp_path: Path, value: str) -> None:
    with pytest.raises((InputError, BaseModelError)):
        train_tiny(
            tmp_path / "adapter", quantization_config=NF4 | {"bnb_4bit_compute_dtype": value}
        )
