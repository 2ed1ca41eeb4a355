"""Target matching agrees with peft's functions on random names and patterns."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.config import LoraAdapterConfig, parse_config
from phi3_lora_qa.adapter.target_matching import Matching, layer_index
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import base_config
from tests.adapter.healthy import LOOK_AHEAD, UNSLOTH_PATTERN
from tests.adapter.tiny_base import module_names

PARTS = ["model", "layers", "0", "1", "11", "self_attn", "mlp", "qkv_proj", "o_proj", "norm",
         "experts", "lm_head", "x_norm"]  # fmt: skip
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map(".".join)
TARGETS = st.lists(NAMES, min_size=1, max_size=3)
KEYS = NAMES | st.sampled_from(
    [r"layers\.1\..*", "(qkv|o)_proj", r"^model.*proj", "o.proj", "x|norm", "a)|(norm", "mlp.1"]
)


def config(**fields: Any) -> LoraAdapterConfig:
    read = parse_config(base_config() | fields).config
    assert read is not None
    return read


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_list_of_targets_matches_like_peft(data: st.DataObject) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    layers = data.draw(st.none() | st.lists(st.integers(0, 12), max_size=2) | st.integers(0, 2))
    fields: dict[str, Any] = {
        "target_modules": data.draw(TARGETS),
        "exclude_modules": data.draw(st.none() | st.lists(NAMES, max_size=2) | KEYS),
        "modules_to_save": data.draw(st.none() | st.lists(NAMES, max_size=2)),
        "layers_to_transform": layers,
        "layers_pattern": None
        if layers is None
        else data.draw(st.none() | st.sampled_from(["layers", "", ["mlp", "layers"], []])),
    }
    try:
        theirs = LoraConfig(**fields)
        module = data.draw(NAMES)
        expected = bool(check_target_module_exists(theirs, module))
    except (ValueError, re.error):
        return
    assert Matching(config(**fields)).targets(module) == expected


@settings(deadline=None)
@given(KEYS, NAMES)
def test_a_target_pattern_matches_like_peft(pattern: str, module: str) -> None:
    from peft.utils.other import match_target_against_key

    try:
        expected = bool(match_target_against_key(pattern, module))
    except re.error:
        with pytest.raises(AdapterError):
            Matching(config(target_modules=pattern))
        return
    assert Matching(config(target_modules=pattern)).targets(module) == expected


@settings(deadline=None)
@given(st.lists(KEYS, max_size=3, unique=True), NAMES)
def test_the_first_matching_pattern_gives_rank_and_alpha_like_in_peft(
    keys: list[str], module: str
) -> None:
    from peft.utils.other import get_pattern_key

    ranks = {key: number + 1 for number, key in enumerate(keys)}
    matching = Matching(config(rank_pattern=ranks, alpha_pattern=ranks, r=9, lora_alpha=7))
    expected = get_pattern_key(list(ranks), module)
    assert matching.rank(module) == ranks.get(expected, 9)
    assert matching.alpha(module) == ranks.get(expected, 7)


def test_scaling_uses_the_patterns() -> None:
    read = config(r=4, lora_alpha=8, rank_pattern={"o_proj": 16}, use_rslora=True)
    assert Matching(read).scaling("model.layers.0.self_attn.o_proj") == 2.0
    assert Matching(read).scaling("model.layers.0.self_attn.qkv_proj") == 4.0


def test_the_layer_index_is_the_first_number_inside_the_name() -> None:
    assert layer_index("model.layers.3.mlp.experts.7.up") == 3
    assert layer_index("layers.3.mlp") is None
    assert layer_index("layers.3.mlp", ("layers",)) == 3
    assert layer_index("model.layers.3") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"(a)\1"},
        {"exclude_modules": r"(a)\1"},
        {"rank_pattern": {"(": 4}},
        {"alpha_pattern": {r"(a)\1": 4}},
        {"modules_to_save": [r"(a)\2"]},
        {"layers_pattern": ["layers.*"], "layers_to_transform": [0]},
    ],
)
def test_an_unsupported_pattern_is_an_error_that_names_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(fields))):
        Matching(config(**fields))


IN_FILE = {"model.layers.0.mlp.down_proj": 3, "model.layers.1.mlp.down_proj": 5}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("target_modules", {"target_modules": r"(m).*\1lp.*"}),
        (
            "exclude_modules",
            {"target_modules": ["down_proj", "o_proj"], "exclude_modules": r"(m).*\1lp.*"},
        ),
        (
            "layers_pattern",
            {
                "target_modules": ["down_proj", "o_proj"],
                "layers_pattern": ["l(ayers)?"],
                "layers_to_transform": 1,
            },
        ),
        ("rank_pattern", {"target_modules": ["down_proj"], "rank_pattern": {r"(m).*\1lp.*": 4}}),
    ],
)
def test_the_file_decides_where_a_pattern_cannot_be_matched(
    field: str, fields: dict[str, Any]
) -> None:
    matching = Matching(config(**fields), IN_FILE)
    names = [*IN_FILE, "model.layers.0.self_attn.o_proj"]
    assert [name for name in names if matching.targets(name)] == list(IN_FILE)
    assert [found.field for found in matching.unmatched] == [field]
    if field == "rank_pattern":
        assert [matching.rank(name) for name in IN_FILE] == [3, 5]


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha_pattern": {r"(a)\1": 4}},
        {"modules_to_save": [r"(a)\1"]},
        {"target_modules": "*x"},
        {"exclude_modules": r"(a)\2"},
        {"layers_pattern": ["l("], "layers_to_transform": [0]},
    ],
)
def test_the_file_cannot_say_alphas_and_does_not_excuse_invalid_patterns(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(AdapterError, match=next(iter(fields))):
        Matching(config(**fields), IN_FILE)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "([a-z_.0-9]+)+!"},
        {"exclude_modules": "(?=(.|.)*!)x"},
        {"rank_pattern": {"(.|.)*!": 4}},
        {"alpha_pattern": {".*.*.*.*.*.*.*!": 4}},
    ],
)
def test_a_pattern_on_which_pythons_re_takes_too_long_is_an_error(fields: dict[str, Any]) -> None:
    matching = Matching(config(**fields))
    with pytest.raises(AdapterError, match=f"{next(iter(fields))}.*(steps on|too long)"):
        matching.require_bounded_re(["model.layers.10.self_attn.qkv_proj", "lm_head"])


def test_patterns_of_real_adapters_take_few_steps() -> None:
    for pattern in (UNSLOTH_PATTERN, LOOK_AHEAD, r".*\.(qkv|down)_proj"):
        Matching(config(target_modules=pattern)).require_bounded_re(module_names())
