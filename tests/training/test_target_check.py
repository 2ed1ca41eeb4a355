import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.target_check import check_targets, linear_modules

MODULES = linear_modules({"num_hidden_layers": 2})
LLAMA = ["k_proj", "q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]


def test_a_phi3_layer_has_four_linear_layers() -> None:
    assert len(MODULES) == 8
    assert MODULES[0] == "model.layers.0.self_attn.qkv_proj"


def test_all_linear_matches_every_layer() -> None:
    assert check_targets("all-linear", MODULES) == MODULES


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["qkv_proj"], 2),
        (["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], 8),
        (["self_attn.qkv_proj"], 2),
        (["model.layers.1.mlp.down_proj"], 1),
        (r".*\.(qkv_proj|down_proj)", 4),
        (r"model\.layers\.1\..*_proj", 4),
    ],
)
def test_existing_layers_may_be_chosen(targets: str | list[str], count: int) -> None:
    assert len(check_targets(targets, MODULES)) == count


def test_the_list_of_the_notebooks_is_rejected_with_the_four_right_names() -> None:
    with pytest.raises(InputError) as caught:
        check_targets(LLAMA, MODULES)
    message = str(caught.value)
    assert "q_proj in qkv_proj" in message
    assert "up_proj in gate_up_proj" in message
    assert message.endswith('["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]')


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["q_proj"], 'use target_modules = ["qkv_proj"]'),
        (["o_proj", "up_proj"], 'use target_modules = ["o_proj", "gate_up_proj"]'),
        (["qkv_porj"], "did you mean 'qkv_proj'?"),
        (["query", "value"], 'use "all-linear"'),
        (["v_proj", "nonsense"], 'use target_modules = ["qkv_proj"]'),
        (["kv_proj"], "did you mean 'qkv_proj'?"),
        ([], "target_modules is empty"),
        (r".*\.(q_proj|k_proj|v_proj|o_proj)", '["qkv_proj"]'),
        (r".*up_proj", '["gate_up_proj"]'),
        (r"attention\..*", "matches no layer"),
        ("qkv_proj", "matches no layer"),
        ("(", "is not a valid regular expression"),
        (["lm_head"], "no linear layer of the base is called lm_head"),
    ],
)
def test_a_target_that_matches_no_layer_is_rejected_with_the_right_name(
    targets: str | list[str], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_targets(targets, MODULES)
    assert says in str(caught.value)


def test_split_names_are_accepted_if_the_base_has_split_layers() -> None:
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
    assert check_targets(["q_proj"], modules) == (modules[0],)
    assert check_targets(r".*\.(q_proj|v_proj)", modules) == tuple(modules)
