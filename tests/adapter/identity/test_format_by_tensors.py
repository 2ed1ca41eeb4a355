"""Files of weights of other programs are recognised by their names."""

import pytest

from phi3_lora_qa.adapter.identity.format_by_tensors import format_by_tensors
from tests.adapter.adapters import P, plain
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import module_names

FILE = "adapter_model.safetensors"
MODULES = module_names()


def named(pattern: str, *parts: str) -> list[str]:
    return [pattern.format(m, m.replace(".", "_")) + part for m in MODULES for part in parts]


def diffusion(pattern: str) -> list[str]:
    parts = (".lora_down.weight", ".lora_up.weight", ".alpha")
    return [pattern.format(number) + part for number in range(4) for part in parts]


@pytest.mark.parametrize(
    ("names", "kind", "fix"),
    [
        (named("lora_{1}", ".lora_down.weight", ".lora_up.weight", ".alpha"), "kohya",
         "kohya-to-peft"),
        (named("{0}", ".lora_down.weight", ".lora_up.weight"), "kohya", "kohya-to-peft"),
        (named("lora_unet_{1}", ".lora_down.weight", ".alpha"), "kohya", "kohya-to-peft"),
        (named("lora_te_{1}", ".lora_down.weight", ".alpha"), "kohya", "kohya-to-peft"),
        (diffusion("lora_unet_down_blocks_{0}_attn1_to_q"), "diffusion model", "no language"),
        (diffusion("lora_te1_text_model_encoder_layers_{0}_self_attn_q_proj"), "diffusion model",
         "no language"),
        (named("diffusion_model.{0}", ".lora_A.weight"), "diffusion model", "no language"),
        (named("unet.{0}", ".lora_A.weight", ".lora_B.weight"), "diffusers", "load_lora_weights"),
        (named("lycoris_{1}", ".hada_w1_a", ".hada_w2_b", ".alpha"), "LyCORIS", "train again"),
        (named("{0}", ".lora_a", ".lora_b"), "mlx-lm", "mlx-to-peft"),
        (named("language_model.{0}", ".A", ".B"), "mlx-vlm", "train again"),
        ([f"layers.{n}.attn.q_proj.lora_{x}.weight" for n in (0, 1) for x in "ab"], "torchtune",
         "torchtune-to-peft"),
        (named("module.{0}", ".adapter.linear_in.weight", ".adapter.linear_out.weight"), "NeMo",
         "hf-peft"),
        (named("transformer.h.0.attn.{1}", ".lora_A", ".lora_B"), "LitGPT", "train again"),
        (named("{0}", ".lora_A", ".lora_B"), "loralib", "loralib-to-peft"),
        (named(P + "{0}", ".lora_A.weight_packed", ".lora_A.weight_scale"), "quantised factors",
         "save_pretrained in float32"),
        (named(P + "{0}", ".lora_A", ".lora_B", ".lora_E"), "ADALORA", "only LoRA"),
        (named(P + "{0}", ".ia3_l"), "IA3", "only LoRA"),
        (["prompt_embeddings"], "trained prompts", "only LoRA"),
        (named("{0}", ".weight"), "weights of a complete model", "before it was merged"),
        (named(P + "{0}", ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"),
         "complete PeftModel", "save_file"),
    ],
)  # fmt: skip
def test_another_format_is_named_with_the_way_to_peft(
    names: list[str], kind: str, fix: str
) -> None:
    found = format_by_tensors(names, FILE, is_peft=False)
    assert found is not None
    assert kind in found.kind
    assert fix in found.fix
    assert found.where == FILE


@pytest.mark.parametrize("variant", HEALTHY)
@pytest.mark.parametrize("is_peft", [False, True])
def test_a_healthy_adapter_is_no_other_format(variant: str, is_peft: bool) -> None:
    assert format_by_tensors(list(HEALTHY[variant]().tensors), FILE, is_peft=is_peft) is None


@pytest.mark.parametrize(
    "change",
    [("lora_A", "lora_a"), ("lora_A", "lora_down"), (P, "module." + P), (P, ""), (".weight", "")],
)
def test_malformed_names_in_an_adapter_of_peft_are_left_to_their_rule(
    change: tuple[str, str],
) -> None:
    names = [name.replace(*change) for name in plain().tensors]
    assert format_by_tensors(names, FILE, is_peft=True) is None


def test_no_tensor_is_no_other_format() -> None:
    assert format_by_tensors([], FILE, is_peft=False) is None
