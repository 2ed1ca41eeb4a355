"""The hypothesis strategies for recipes, and for their steps and values."""

import json
from typing import Any

from hypothesis import strategies as st

from phi3_lora_qa.adapter.config_schema import FIELDS, REFUSED
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    EXPECTED_FILES,
    MANIFEST,
    MAX_ENTRIES,
    MODEL_CARD,
    PICKLED_WEIGHTS,
    TEMPLATE_FOLDER,
    TRAINING_LOG,
    WEIGHTS,
)
from phi3_lora_qa.adapter.safetensors_file import BITS
from tests.adapter.adapters import P, base_config
from tests.adapter.fuzzing.build_folder import EXTRAS
from tests.adapter.fuzzing.hostile_texts import LONG, PATTERNS, TEMPLATES
from tests.adapter.fuzzing.image import HEADER, INNER, OLDER, PIECES, SETTINGS, TEMPLATE, TOKENIZER
from tests.adapter.fuzzing.recipes import Recipe, Step
from tests.adapter.healthy import HEALTHY

_COUNTS = st.sampled_from([1, 3, 40, 512, 2048, 16_000, 100_000])
_INDEX = st.integers(0, 400)
_LONG = st.one_of(
    st.builds("@{}:{}".format, st.sampled_from(sorted(set(LONG) - {"far", "blocks"})), _COUNTS),
    st.sampled_from(["@far:255", "@far:9999", "@blocks:3", "@blocks:2048", "@digits:400",
                     "@digits:4301", "@list:20", "@list:33", "@digits:30"]),
)  # fmt: skip
_LITERALS = (
    "null", "true", "false", "0", "1", "2", "4", "-1", "-0.0", "0.5", "7.5", "1e308", "-1e308",
    "1e999", "1e-320", "3.4e38", "65536", "65537", "9223372036854775807", "9223372036854775808",
    "NaN", "Infinity", "-Infinity", '""', '"\\ud800"', '"\\udc00\\ud800"', '"\\u202e\\u0007"',
    '"\\u0000"', '"qkv_proj"', '"all-linear"', '"lm_head"', '"mica"', '"pissa_niter_4"', '"LoRA"',
    '"lora_only"', '"/etc/passwd"', '"\\n::error::x"', "[]", "{}", "[[]]", "[null]", '["qkv_proj"]',
    '["lm_head","embed_tokens"]', "[0]", "[1,0]", "[0,1.0]", "[true]", '{"o_proj":4}', '{"":1}',
    '{"embed_tokens":[0,95]}', '{"lm_head":[99999]}', '{"a":{"b":[{}]}}', "1,", "tru", "'x'", "",
    '{"num_groups":4}', '{"num_samples":3}', '["mlp.down_proj.weight"]', '["","a.b","layers"]',
    '"<|end|>"', '{"train":0}', '{"content":"<|end|>"}', '[{"content":"x","id":96}]', '["norm"]',
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "", "\u202eabc", "\x1b[2J", "a\nb", "\ud800", "::error::x", "x" * 600, "__metadata__",
        P + "lm_head.weight", P + "model.norm.weight", P + "model.layers.0.mlp.down_proj.weight",
        P + "model.layers.1.self_attn.o_proj.lora_A.default.weight", P + "x.lora_A.\u202e.weight",
        P + "model.layers.999999.mlp.down_proj.lora_A.weight", P + "model.layers.٣.x.lora_B.weight",
        P + "model.embed_tokens.base_layer.weight", "model.layers.0.lora_a.module._orig_mod",
        P * 40, P + "model.layers.0.mlp.down_proj.lora_magnitude_vector.weight", "x" * 9_000,
        P + "lm_head.token_adapter.trainable_tokens_delta", P + "lm_head.lora_B.bias",
    ]),
)  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(_LITERALS),
    _LONG,
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(json.dumps),
    _TEXTS.map(json.dumps),
    st.builds("[{},{}]".format, st.sampled_from(_LITERALS), st.sampled_from(_LITERALS)),
    st.builds('{{"a":{},"o_proj":{}}}'.format, *[st.sampled_from(_LITERALS)] * 2),
)
_PATTERN = st.integers(0, len(PATTERNS) - 1)
_DOCUMENTS = st.sampled_from(
    [CONFIG, CONFIG, HEADER, HEADER, MANIFEST, SETTINGS, TOKENIZER, *OLDER]
)
_FILES = st.sampled_from(
    [CONFIG, WEIGHTS, WEIGHTS, MANIFEST, MODEL_CARD, SETTINGS, TOKENIZER, TEMPLATE, PIECES, INNER,
     *OLDER]
)  # fmt: skip
_ODD_NAMES = (
    "a\nb", "\udcff\udcfe", "\u202egpj", "-rf", "x" * 255, "adapter_model.safetensors ", ".hidden",
    "ADAPTER_CONFIG.JSON", "modeling.py", "x.so", "optimizer.pt", "training_args.bin", "a:b,c%d",
    PICKLED_WEIGHTS, "\x1b[2J", "adapter_c\u043enfig.json", "model.safetensors.index.json", "é",
)  # fmt: skip
_NAMES = st.one_of(
    st.sampled_from(EXPECTED_FILES),
    st.sampled_from(_ODD_NAMES),
    st.sampled_from([TEMPLATE_FOLDER, INNER, TRAINING_LOG, "config.json", "pytest.ini"]),
)
_AT = st.one_of(st.integers(0, 300), st.integers(0, 1 << 20))
_DTYPES = st.one_of(st.sampled_from(["F64", "F32", "F16", "BF16"]), st.sampled_from(sorted(BITS)))
_FILLS = st.sampled_from(
    ["zero", "one", "nan", "infinite", "largest", "wide", "smallest", "spread", "usual"]
)
_SIZES = st.sampled_from([0, 1, 2, 4, 6, 32, 64, 96, 257, 1 << 31, 1 << 40, (1 << 62), (1 << 63)])
_SHAPES = st.lists(_SIZES, max_size=4).map(tuple)
_ENDS = st.sampled_from(["", "lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "weight"])
_CONFIG_FIELDS = st.sampled_from([*FIELDS, *REFUSED, "auto_mapping", "é\u202e", "", "peft"])
_PATTERN_FIELDS = st.sampled_from(["target_modules", "exclude_modules", "layers_pattern"])
_TABLE_FIELDS = st.sampled_from(["rank_pattern", "alpha_pattern", "trainable_token_indices"])
_MANIFEST_FIELDS = st.sampled_from(
    ["files", "scaling", "final_losses", "seed", "schema_version", "base_fingerprint", "versions"]
)
_SETTINGS_FIELDS = st.sampled_from(
    ["pad_token", "eos_token", "chat_template", "added_tokens_decoder", "extra_special_tokens",
     "auto_map", "tokenizer_class", "a_token"]
)  # fmt: skip
_TOKENIZER_PARTS = st.sampled_from(
    ["model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
)
_PARTS = st.sampled_from(
    ['{"type":"Sequence","pretokenizers":[{"type":"Sequence"}]}', '{"type":[]}', '{"type":{}}',
     '{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":[]}}]}', '{"type":"Metaspace"}',
     '{"type":"TemplateProcessing","single":"abc","special_tokens":[]}', '{"type":"Sequence"}',
     '{"type":"BPE","vocab":{"a":0},"merges":["a a"]}', '{"vocab":[["a",0]],"unk_id":0}',
     '{"type":"Unigram","vocab":[["a","b"]]}', '{"type":"BPE","vocab":{"a":-1},"merges":[[]]}']
)  # fmt: skip


def _step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), *arguments)


_SOUND = sorted(
    {
        (name, json.dumps(value))
        for make in HEALTHY.values()
        for name, value in make().config.items()
        if value != base_config().get(name)
    }
)
"""Fields as the healthy variants set them, to be set in other variants."""

_JSON_STEPS = (
    st.sampled_from(_SOUND).map(lambda pair: ("put", CONFIG, *pair)),
    st.sampled_from(_SOUND).map(lambda pair: ("put", CONFIG, *pair)),
    _step("put", st.just(CONFIG), _CONFIG_FIELDS, _VALUES),
    _step("put", st.just(CONFIG), _CONFIG_FIELDS, _VALUES),
    _step("put", st.just(CONFIG), _PATTERN_FIELDS, _PATTERN.map("@pattern:{}".format)),
    _step("put", st.just(CONFIG), _TABLE_FIELDS, _PATTERN.map("@patterns:{}".format)),
    _step("put", st.just(CONFIG), st.just("modules_to_save"), _PATTERN.map("@zone:{}".format)),
    _step("put", st.just(CONFIG), st.just("target_modules"), st.just("@far:255")),
    _step("put", st.just(MANIFEST), _MANIFEST_FIELDS, _VALUES),
    _step("put", st.just(SETTINGS), _SETTINGS_FIELDS, _VALUES),
    _step("put", st.just(TOKENIZER), _TOKENIZER_PARTS, _VALUES | _PARTS),
    _step("put", st.sampled_from(OLDER), st.sampled_from(["eos_token", "<|end|>"]), _VALUES),
    _step("put", st.just(TRAINING_LOG), st.just("log_history"), _VALUES),
    _step("put", st.just(HEADER), st.just("__metadata__"), _VALUES),
    _step("put", st.just(HEADER), _TEXTS, _VALUES),
    _step("node", st.just(HEADER), _INDEX, _INDEX, _VALUES),
    _step("node", _DOCUMENTS, _INDEX, _INDEX, _VALUES),
    _step("node", st.just(MANIFEST), _INDEX, _INDEX, _VALUES),
    _step("twice", _DOCUMENTS, _INDEX, _VALUES),
    _step("rekey", _DOCUMENTS, _INDEX, _TEXTS.map(json.dumps) | st.sampled_from(_LITERALS)),
    _step("forget", _DOCUMENTS, _INDEX),
    _step("crowd", _DOCUMENTS, st.sampled_from([5, 600, 20_000, 90_000]), st.integers(0, 2)),
)  # fmt: skip
_TENSOR_STEPS = (
    _step("tensor", _INDEX, _DTYPES, _SHAPES, _FILLS),
    _step("recast", _ENDS, _DTYPES, _FILLS),
    _step("retitle", _INDEX, _TEXTS),
    _step("repeat", _INDEX, _TEXTS),
    _step("lose", _INDEX),
    _step("swarm", st.sampled_from(["layers", "deep", "other", "junk"]),
          st.sampled_from([20, 300, 2000, 6000, 16_400])),
)  # fmt: skip
_BYTE_STEPS = (
    _step("flip", _FILES, _AT, st.integers(1, 255)),
    _step("cut", _FILES, _AT),
    _step("insert", _FILES, _AT, st.binary(min_size=1, max_size=9)),
    _step("splice", _FILES, _FILES, _AT, st.sampled_from([1, 8, 100, 5000])),
    _step("length", st.one_of(st.integers(0, 9000), st.sampled_from([1 << 23, 2**63, 2**64 - 1]))),
    _step(
        "write", _FILES,
        st.sampled_from([b"", b"{}", b"[", b"\0", b"\xff", b"\xef\xbb\xbf{}", b"PK\x03\x04",
                         b"\x80\x02}.", b"version https://git-lfs", b"\xed\xa0\x80", b'{"a":']),
        st.sampled_from([1, 1, 9, 100_000]),
    ),
)  # fmt: skip
_TEMPLATE_STEPS = (
    _step("template", st.integers(0, len(TEMPLATES) - 1)),
    _step(
        "put", st.just(SETTINGS), st.just("chat_template"),
        st.integers(0, len(TEMPLATES) - 1).map("@template:{}".format),
    ),
)  # fmt: skip
_PLACE_STEPS = (
    _step("link", _NAMES, st.sampled_from(
        ["outside", "inside", "dangling", "loop", "parent", "endless", "moved"])),
    _step("special", _NAMES, st.sampled_from(["pipe", "socket", "folder"])),
    _step("beside", _NAMES, st.binary(max_size=20)),
    _step("many", st.sampled_from([50, MAX_ENTRIES - 3, MAX_ENTRIES + 5])),
    _step("sparse", _NAMES, st.sampled_from([5 << 20, 65 << 20, 900 << 20, 5 << 30, 33 << 30])),
    _step("sparse_tensor", _INDEX, st.sampled_from([1 << 20, 1 << 26, 1 << 29, 1 << 31])),
    _step("closed", _NAMES),
    _step("remove", _NAMES),
    _step("instead", st.sampled_from(["nothing", "link", "loop", "file", "pipe"])),
    _step("call", st.sampled_from(["a\nb", "\udcff", "\u202ea", "-x", "::error::x", "x" * 255])),
)  # fmt: skip


def recipes(*, quick: bool = False, max_steps: int = 4) -> st.SearchStrategy[Recipe]:
    """Return a strategy for recipes of one or more steps on any healthy variant.

    Args:
        quick: Exclude steps that legitimately keep the linter busy for seconds.
        max_steps: The maximum number of steps.
    """
    any_step = st.one_of(
        st.one_of(*_JSON_STEPS),
        st.one_of(*_JSON_STEPS),
        st.one_of(*_TENSOR_STEPS),
        st.one_of(*_BYTE_STEPS),
        st.one_of(*_PLACE_STEPS),
        st.one_of(*_PLACE_STEPS, *_TEMPLATE_STEPS),
    )
    return st.builds(
        Recipe,
        st.sampled_from(sorted(HEALTHY)),
        st.sampled_from(
            [
                (),
                (),
                (),
                ("card",),
                *[("card", "manifest")] * 3,
                ("tokenizer",),
                ("tokenizer", "older"),
                EXTRAS,
            ]
        ),
        st.lists(any_step.map(_lighter) if quick else any_step, min_size=1, max_size=max_steps).map(
            tuple
        ),
        st.sampled_from(["whole", "whole", "tied", "bare"]),
    )


def _lighter(heavy: Step) -> Step:
    """Make a step cheaper: fewer patterns and tensors, and no endless template."""
    match heavy:
        case ("swarm", kind, count):
            return ("swarm", kind, min(count, 300))
        case ("many", count):
            return ("many", min(count, 50))
        case ("crowd", file, count, repeated):
            return ("crowd", file, min(count, 20_000), repeated)
        case ("template", 0):
            return ("template", 1)
        case ("put", file, key, str(value)):
            lighter = value.replace("@patterns:", "@few:").replace("@zone:", "@pair:")
            return ("put", file, key, "@template:1" if lighter == "@template:0" else lighter)
        case _:
            return heavy
