import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.adapter.tensor_names import (
    BadKey,
    Part,
    TensorKey,
    parse_key,
    parse_keys,
    tensor_name,
)
from tests.adapter.adapters import P
from tests.adapter.tiny_base import module_names

NAME = f"{P}model.layers.0.mlp.down_proj.lora_B.weight"


@given(st.sampled_from([*module_names(), "lm_head", "model.embed_tokens"]), st.sampled_from(Part))
def test_a_name_that_peft_writes_is_parsed(module: str, part: Part) -> None:
    name = tensor_name(module, part)
    assert parse_key(name) == TensorKey(name=name, module=module, part=part)


@given(st.text(max_size=80) | st.text(alphabet="base_modl.rAB0weight", max_size=80).map(P.__add__))
def test_any_text_is_a_valid_or_an_invalid_name(name: str) -> None:
    key = parse_key(name)
    if isinstance(key, BadKey):
        assert key.cause
        assert key.fix


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("_orig_mod." + NAME, "torch.compile"),
        (NAME.replace(P, P + "_orig_mod."), "torch.compile"),
        ("module." + NAME, "DistributedDataParallel"),
        (NAME.replace(".mlp.", "._fsdp_wrapped_module.mlp."), "FSDP"),
        (NAME.replace(".mlp.", "._checkpoint_wrapped_module.mlp."), "checkpointing"),
        (P + NAME, "wrapped in a PeftModel"),
        (NAME.removeprefix(P), "is missing"),
        (NAME.replace(P, "base_model."), None),
        (NAME.replace("lora_B", "lora_b"), "torchtune"),
        (NAME.replace("lora_B", "lora_up"), "kohya"),
        (NAME.removesuffix(".weight"), ".weight is missing"),
        (NAME.replace("lora_B", "lora_B.sql"), "sql"),
        ("module._orig_mod." + NAME.replace("lora_B", "lora_up"), "kohya"),
    ],
)
def test_a_corrupted_name_gets_its_cause_and_the_corrected_name(
    name: str, cause: str | None
) -> None:
    key = parse_key(name)
    if cause is None:  # valid, but of a module that no Phi-3 has
        assert isinstance(key, TensorKey)
        assert key.module == "layers.0.mlp.down_proj"
        return
    assert isinstance(key, BadKey)
    assert cause in key.cause
    assert key.corrected == NAME
    assert key.fix == f"rename it to {NAME}"


@pytest.mark.parametrize(
    "name",
    ["", "lora_A.weight", P + "lora_A.weight", f"{P}a..b.lora_A.weight", f"{P}a b.lora_A.weight",
     f"{P}a.lora_C.weight", f"{P}{'a' * 600}.lora_A.weight", f"{P}a.lora_A.lora_B.weight",
     f"{P}\n.lora_A.weight"],
)  # fmt: skip
def test_a_name_that_peft_never_writes_is_invalid(name: str) -> None:
    assert isinstance(parse_key(name), BadKey)


def test_the_second_of_two_names_for_one_tensor_is_invalid() -> None:
    good, bad = parse_keys([NAME, NAME.replace("lora_B", "lora_B.default")])
    assert list(good) == [NAME]
    assert len(bad) == 1
    assert good[NAME].name == NAME
