import math
import random

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import ScalingConfig, alpha_for, module_scaling, scaling_of

MODULES = (
    "model.layers.0.self_attn.qkv_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.10.mlp.down_proj",
    "down_proj",
    "xdown_proj",
    "model.layers.1.mlp.gate_up_proj",
    "lm_head",
)
PATTERNS = (
    "down_proj",
    "mlp.down_proj",
    "layers.1.self_attn.o_proj",
    r"layers\.\d+\.mlp\..*",
    "^model.layers.0.self_attn.qkv_proj",
    "self_attn",
    "qkv_proj|o_proj",
    ".*",
    "lm_head",
)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_found_alpha_gives_the_scaling_exactly(rslora: bool) -> None:
    draw = random.Random(0)
    found = 0
    for _ in range(1000):
        rank = draw.randint(1, 300)
        scale = scaling_of(draw.randint(-64, 64), draw.randint(1, 300), rslora=rslora)
        try:
            alpha = alpha_for(scale, rank, rslora=rslora)
        except InputError:
            continue
        found += 1
        assert scaling_of(alpha, rank, rslora=rslora) == scale
    assert found > 500


def test_the_alpha_of_a_wider_adapter_keeps_the_scaling() -> None:
    assert alpha_for(2.0, 24) == 48.0
    assert alpha_for(16 / 7, 21) == 48.0
    assert alpha_for(2.0, 16, rslora=True) == 8.0


@pytest.mark.parametrize(
    ("rslora", "power", "refused", "scale"),
    [(False, "two", 3, 13 / 7), (True, "four", 2, 11 / 7)],
    ids=["plain", "rslora"],
)
def test_a_scaling_that_no_alpha_gives_is_rejected_and_the_suggested_fix_works(
    rslora: bool, power: str, refused: int, scale: float
) -> None:
    with pytest.raises(
        InputError, match=rf"exactly: .* at rank {refused}; pad .* a power of {power}$"
    ):
        alpha_for(scale, refused, rslora=rslora)
    product = scale * (refused**0.5 if rslora else refused)
    for alpha in (product, math.nextafter(product, 0), math.nextafter(product, math.inf)):
        assert scaling_of(alpha, refused, rslora=rslora) != scale
    assert alpha_for(scale, 16, rslora=rslora) == scale * (4 if rslora else 16)


def test_the_first_pattern_that_matches_counts_for_ranks_and_for_alphas() -> None:
    config = ScalingConfig(
        rank=8,
        alpha=16,
        rank_pattern={"o_proj": 2, "self_attn.o_proj": 4},
        alpha_pattern={"down_proj": 3.0},
    )
    o_proj = module_scaling("model.layers.0.self_attn.o_proj", config)
    assert (o_proj.rank, o_proj.alpha, o_proj.scaling) == (2, 16, 8.0)
    down = module_scaling("model.layers.0.mlp.down_proj", config)
    assert (down.rank, down.alpha, down.scaling) == (8, 3.0, 0.375)
    assert module_scaling("lm_head", config).scaling == 2.0


def test_rslora_applies_to_patterns_as_well() -> None:
    config = ScalingConfig(rank=8, alpha=16, rank_pattern={"x": 4}, rslora=True)
    assert module_scaling("a.x", config).scaling == 8.0


def test_a_pattern_means_a_whole_part_of_the_name_at_its_end() -> None:
    config = ScalingConfig(rank=8, alpha=8, rank_pattern={"proj": 1})
    assert module_scaling("a.proj", config).rank == 1
    assert module_scaling("a.down_proj", config).rank == 8
    assert module_scaling("a.proj.b", config).rank == 8


def test_a_key_that_does_not_match_itself_is_looked_up_as_a_name() -> None:
    config = ScalingConfig(rank=8, alpha=8, rank_pattern={"a+b": 1})
    assert module_scaling("a+b", config).rank == 1
    assert module_scaling("c.a+b", config).rank == 8


def test_ranks_and_alphas_are_resolved_as_peft_resolves_them_in_a_thousand_draws() -> None:
    from peft.utils.other import get_pattern_key

    draw = random.Random(1)
    own = 0
    for _ in range(1000):
        ranks = {p: draw.randint(1, 64) for p in draw.sample(PATTERNS, draw.randint(0, 4))}
        alphas = {p: draw.uniform(1, 64) for p in draw.sample(PATTERNS, draw.randint(0, 4))}
        config = ScalingConfig(rank=8, alpha=16, rank_pattern=ranks, alpha_pattern=alphas)
        module = draw.choice(MODULES)
        found = module_scaling(module, config)
        rank = ranks.get(get_pattern_key(list(ranks), module), 8)
        alpha = alphas.get(get_pattern_key(list(alphas), module), 16)
        assert (found.rank, found.alpha) == (rank, alpha)
        own += rank != 8
    assert 200 < own < 800


def test_the_linters_bounded_matching_agrees() -> None:
    from phi3_lora_qa.adapter.config import parse_config
    from phi3_lora_qa.adapter.target_matching import Matching

    draw = random.Random(2)
    plain = [p for p in PATTERNS if not p.startswith("^")]
    for _ in range(200):
        ranks = {p: draw.randint(1, 64) for p in draw.sample(plain, draw.randint(0, 4))}
        rslora = draw.random() < 0.5
        raw = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["o_proj"]}
        read = parse_config({**raw, "rank_pattern": ranks, "use_rslora": rslora}).config
        assert read is not None
        matching = Matching(read)
        config = ScalingConfig(rank=8, alpha=16, rank_pattern=ranks, rslora=rslora)
        for module in MODULES:
            assert matching.scaling(module) == module_scaling(module, config).scaling


@pytest.mark.parametrize("rslora", [False, True])
def test_pefts_layer_has_this_scaling(rslora: bool) -> None:
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear
    from torch import nn

    config = LoraConfig(use_rslora=rslora)
    for rank in range(1, 60, 7):
        for alpha in (1, 16, 33, 7):
            layer = Linear(nn.Linear(2, 2), "default", config=config, r=rank, lora_alpha=alpha)
            assert layer.scaling["default"] == scaling_of(alpha, rank, rslora=rslora)
