"""peft accepts every drawn LoRA config without a warning, and merges the mergeable ones."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Phi3Config, Phi3ForCausalLM

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.strategies import VARIANTS, Variant, lora_configs, phi3_configs
from tests.strategies.drawing import QUICK, SLOW, smallest

PLAIN = smallest(phi3_configs())
TIED = smallest(phi3_configs(), lambda config: config.tie_word_embeddings)
DEEP = smallest(phi3_configs(), lambda config: config.num_hidden_layers == 3)
LINEAR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:`lora_bias=True` was passed", "ignore:`is_gradient_checkpointing` is deprecated"
    ),
    pytest.mark.slow,
]


def starts_as(kind: bool | str, config: LoraConfig) -> bool:
    return config.init_lora_weights == kind


FEATURES: dict[str, Callable[[Any], object]] = {
    "suffixes": lambda c: len(set(c.target_modules) & set(LINEAR)) > 1,
    "one full name": lambda c: any(name.startswith("model.") for name in c.target_modules),
    "a regular expression": lambda c: str(c.target_modules).startswith(".*"),
    "all-linear": lambda c: c.target_modules == "all-linear",
    "a table": lambda c: {"embed_tokens", "lm_head"} & set(c.target_modules),
    "some layers": lambda c: c.layers_to_transform,
    "an excluded name": lambda c: isinstance(c.exclude_modules, set),
    "an excluded pattern": lambda c: isinstance(c.exclude_modules, str),
    "a rank pattern": lambda c: c.rank_pattern,
    "an alpha pattern": lambda c: c.alpha_pattern,
    "dropout": lambda c: c.lora_dropout,
    "rslora": lambda c: c.use_rslora,
    "dora": lambda c: c.use_dora,
    "lora_bias": lambda c: c.lora_bias,
    "a saved norm": lambda c: {"norm", "input_layernorm"} & set(c.modules_to_save or ()),
    "a saved table": lambda c: {"embed_tokens", "lm_head"} & set(c.modules_to_save or ()),
    "tokens": lambda c: isinstance(c.trainable_token_indices, list),
    "tokens of tables": lambda c: isinstance(c.trainable_token_indices, dict),
    **{
        f"init {kind}": partial(starts_as, kind)
        for kind in (True, False, "gaussian", "orthogonal", "mica")
    },
}


@SLOW
@given(data=st.data())
def test_peft_accepts_a_config_without_a_warning(data: st.DataObject) -> None:
    config = data.draw(phi3_configs())
    chosen = data.draw(lora_configs(config, mergeable=False))
    model = Phi3ForCausalLM(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in ("`lora_bias=True` was passed", "`is_gradient_checkpointing` is deprecated"):
            warnings.filterwarnings("ignore", known)
        tuned = get_peft_model(model, chosen)
    assert any("lora_" in name for name, _ in tuned.named_parameters())


def test_a_mere_warning_of_peft_would_be_found() -> None:
    idle = LoraConfig(target_modules=["qkv_proj"], rank_pattern={"o_proj": 2})
    with pytest.warns(RuntimeWarning, match="did not match any targeted module"):
        get_peft_model(Phi3ForCausalLM(PLAIN), idle)


def test_every_option_is_drawn() -> None:
    seen: Counter[str] = Counter()

    @settings(QUICK, max_examples=150)
    @given(lora_configs(DEEP, mergeable=False))
    def look(chosen: LoraConfig) -> None:
        seen.update(name for name, has in FEATURES.items() if has(chosen))

    look()
    assert set(FEATURES) - set(seen) == set()


@SLOW
@given(data=st.data())
def test_a_mergeable_config_gives_the_same_logits_merged(data: st.DataObject) -> None:
    config = data.draw(phi3_configs())
    chosen = data.draw(lora_configs(config))
    tuned = get_peft_model(Phi3ForCausalLM(config), chosen).eval()
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.normal_(std=0.1)
    ids = torch.arange(20)[None] % config.vocab_size
    with torch.inference_mode():
        unmerged = tuned(ids).logits
        merged = tuned.merge_and_unload()(ids).logits
    error = ((merged - unmerged).norm() / unmerged.norm()).item()
    assert error < 1e-4, error


def test_lora_bias_is_drawn_only_if_the_config_need_not_be_mergeable() -> None:
    with pytest.raises(InputError, match="pass mergeable=False or another variant"):
        smallest(lora_configs(PLAIN, variants=["lora_bias"]))
    found = smallest(lora_configs(PLAIN, variants=["lora_bias"], mergeable=False))
    tuned = get_peft_model(Phi3ForCausalLM(PLAIN), found)
    with pytest.raises(RuntimeError, match="Impossible to merge"):
        tuned.merge_and_unload()


@QUICK
@given(data=st.data(), variant=st.sampled_from(VARIANTS))
def test_only_the_requested_variants_are_drawn(data: st.DataObject, variant: Variant) -> None:
    chosen = data.draw(lora_configs(PLAIN, mergeable=False, variants=[variant]))
    assert chosen.use_dora == (variant == "dora")
    assert chosen.lora_bias == (variant == "lora_bias")
    assert (chosen.init_lora_weights == "mica") == (variant == "mica")


@QUICK
@given(lora_configs(TIED, mergeable=False))
def test_tied_tables_are_neither_adapted_nor_fully_trained(chosen: Any) -> None:
    named = {*chosen.target_modules, *(chosen.modules_to_save or ())}
    assert not {"embed_tokens", "lm_head"} & named


def shrunk(config: Phi3Config, condition: Callable[[LoraConfig], object]) -> dict[str, object]:
    found = smallest(lora_configs(config, mergeable=False), condition)
    same = LoraConfig(task_type="CAUSAL_LM", r=1, lora_alpha=1, target_modules=["qkv_proj"])
    plain = same.to_dict()
    return {name: value for name, value in found.to_dict().items() if value != plain[name]}


def test_a_config_shrinks_to_rank_1_on_one_projection() -> None:
    assert shrunk(PLAIN, lambda config: True) == {}


@pytest.mark.parametrize(
    ("feature", "left"),
    [
        ("all-linear", {"target_modules": "all-linear"}),
        ("some layers", {"layers_to_transform": [0]}),
        ("a rank pattern", {"rank_pattern": {"qkv_proj": 1}}),
        ("dora", {"use_dora": True}),
        ("init orthogonal", {"init_lora_weights": "orthogonal", "r": 2}),
        ("tokens of tables", {"trainable_token_indices": {"embed_tokens": [0]}}),
    ],
)
def test_a_failure_of_one_option_shrinks_to_that_option_alone(
    feature: str, left: dict[str, object]
) -> None:
    assert shrunk(DEEP, FEATURES[feature]) == left
