"""Folders of other programs are recognised by their files, if PEFT's weights are missing."""

import pytest

from phi3_lora_qa.adapter.identity.format_by_files import format_by_files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("names", "kind", "fix"),
    [
        (["lora-f16.gguf"], "GGUF", "not converted back"),
        (["model.lora_weights.npy", "model.lora_config.npy"], "TensorRT", "pass the folder"),
        (["model.onnx", "model.onnx_data"], "ONNX", "pass the folder"),
        (["0000100_adapters.safetensors"], "mlx-lm", "convert mlx-to-peft"),
        ([CONFIG, "adapters.npz"], "mlx-lm", "convert mlx-to-peft"),
        (["pytorch_lora_weights.safetensors"], "diffusion model", "load_lora_weights"),
        (["lit_model.pth.lora"], "LitGPT", "train again"),
        (["adapter_0.pt", "adapter_config.json"], "torchtune", "torchtune-to-peft"),
        (["model.nemo"], "NeMo", "hf-peft"),
        (["context", "weights"], "NeMo", "hf-peft"),
        (["iter_0000100", "latest_checkpointed_iteration.txt"], "Megatron", "hf-peft"),
        (["global_step100", "latest", "zero_to_fp32.py"], "DeepSpeed", "zero_to_fp32"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed", "zero_to_fp32"),
        (["__0_0.distcp", ".metadata"], "sharded training checkpoint", "FULL_STATE_DICT"),
        (["pytorch_model_fsdp_0", "optimizer_0"], "sharded", "FULL_STATE_DICT"),
        (["config.json", "model.safetensors"], "complete model", "before it was merged"),
        (["config.json", "model-00001-of-00002.safetensors"], "complete model", "before it was"),
        (["model.safetensors.index.json", "trainer_state.json"], "complete model", "before it was"),
        (["pytorch_model.bin"], "complete model", "before it was merged"),
        (
            ["trainer_state.json", "optimizer.pt"],
            "checkpoint without an adapter",
            "save_pretrained",
        ),
        (["checkpoint-10", "checkpoint-20"], "output folder of a training", "save_pretrained"),
        (["pytorch_adapter.bin"], "AdapterHub", "train again"),
        (["adapter.tar.gz"], "archive", "unpack"),
    ],
)
def test_another_format_is_named_with_the_way_to_peft(
    names: list[str], kind: str, fix: str
) -> None:
    found = format_by_files(names, is_peft=False)
    assert found is not None
    assert kind in found.kind
    assert fix in found.fix
    assert found.where in names


@pytest.mark.parametrize("is_peft", [False, True])
def test_files_next_to_pefts_weights_show_nothing(is_peft: bool) -> None:
    beside = ["optimizer.pt", "trainer_state.json", "global_step10", "zero_to_fp32.py", "x.gguf"]
    assert format_by_files([CONFIG, WEIGHTS, *beside], is_peft=is_peft) is None
    assert format_by_files([CONFIG, "adapter_model.bin", *beside], is_peft=is_peft) is None


@pytest.mark.parametrize(
    "names",
    [[], [CONFIG], ["README.md", "notes.txt"], ["adapter_model-00001-of-00002.safetensors"],
     ["tokenizer.json", "config.json"]],
)  # fmt: skip
def test_an_empty_or_unrelated_folder_is_no_other_format(names: list[str]) -> None:
    assert format_by_files(names, is_peft=False) is None


def test_with_pefts_config_a_checkpoint_without_weights_is_left_to_the_other_rules() -> None:
    assert format_by_files([CONFIG, "trainer_state.json", "optimizer.pt"], is_peft=True) is None
    assert format_by_files([CONFIG, "model.safetensors"], is_peft=True) is not None
