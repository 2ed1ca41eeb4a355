"""Faults of the tensors' names and shapes, and tensors that are missing or unexpected."""

from tests.adapter.adapters import RANK, P
from tests.adapter.faults.ways import (
    Fault,
    add,
    config,
    cut_layer,
    double,
    drop,
    fixed_layers,
    linear,
    listed,
    only,
    rename,
    rename_one,
    shape,
    shard_all,
    shift_layers,
    swap_all,
)
from tests.adapter.tiny_base import HIDDEN, LEAVES

TENSORS: dict[str, Fault] = {
    "lower case": Fault(
        rule="tensors-key",
        apply=rename(lambda n: n.replace("lora_A", "lora_a").replace("lora_B", "lora_b")),
        fits=linear,
    ),
    "kohya names": Fault(
        rule="tensors-key",
        apply=rename(lambda n: n.replace("lora_A", "lora_down").replace("lora_B", "lora_up")),
        fits=linear,
    ),
    "compiled": Fault(
        rule="tensors-key", apply=rename(lambda n: n.replace(P, P + "_orig_mod."))
    ),
    "compiled outside": Fault(rule="tensors-key", apply=rename(lambda n: "_orig_mod." + n)),
    "ddp": Fault(rule="tensors-key", apply=rename(lambda n: "module." + n)),
    "fsdp": Fault(
        rule="tensors-key",
        apply=rename(lambda n: n.replace(".layers.0.", ".layers.0._fsdp_wrapped_module.")),
        fits=lambda v: v != "one_layer",
    ),
    "no prefix": Fault(rule="tensors-key", apply=rename(lambda n: n.removeprefix(P))),
    "prefix twice": Fault(rule="tensors-key", apply=rename(lambda n: P + n)),
    "half a prefix": Fault(
        rule="tensors-unknown-module", apply=rename(lambda n: n.replace(P + "model.", P)),
        fits=linear,
    ),
    "no ending": Fault(
        rule="tensors-key",
        apply=rename_one(lambda n: n.removesuffix(".weight")),
        places=True,
        fits=linear,
    ),
    "another adapter's name": Fault(
        rule="tensors-key",
        apply=rename(lambda n: n.replace(".weight", ".sql.weight")),
        fits=only("plain", "rslora", "all-linear"),
    ),
    "the same twice": Fault(rule="tensors-key", apply=double, places=True),
    "norm smuggled": Fault(
        rule="tensors-base-weight",
        apply=add(f"{P}model.layers.0.input_layernorm.weight", HIDDEN),
        fits=lambda v: v != "saved_head",
    ),
    "head smuggled": Fault(
        rule="tensors-base-weight",
        apply=add(f"{P}lm_head.weight", 96, HIDDEN),
        fits=lambda v: v not in ("saved_head", "embeddings"),
    ),
    "base layer smuggled": Fault(
        rule="tensors-base-weight",
        apply=add(f"{P}model.layers.0.self_attn.qkv_proj.base_layer.weight", 64, HIDDEN),
    ),
    "bias smuggled": Fault(
        rule="tensors-base-weight",
        apply=add(f"{P}model.layers.0.self_attn.qkv_proj.bias", 64),
    ),
    "A missing": Fault(
        rule="tensors-missing", apply=drop("lora_A.weight"), places=True, fits=linear
    ),
    "B missing": Fault(
        rule="tensors-missing", apply=drop("lora_B.weight"), places=True, fits=linear
    ),
    "layer missing": Fault(rule="tensors-missing", apply=cut_layer, fits=fixed_layers),
    "magnitude missing": Fault(
        rule="tensors-missing", apply=drop("magnitude_vector"), places=True, fits=only("dora")
    ),
    "dora flag set": Fault(
        rule="tensors-missing", apply=config(use_dora=True), fits=only("plain", "rslora")
    ),
    "bias flag set": Fault(
        rule="tensors-missing", apply=config(lora_bias=True), fits=only("plain", "rslora")
    ),
    "head not saved": Fault(
        rule="tensors-missing", apply=drop("lm_head.weight"), fits=only("saved_head")
    ),
    "dora flag lost": Fault(
        rule="tensors-unimplied", apply=config(use_dora=False), fits=only("dora")
    ),
    "bias flag lost": Fault(
        rule="tensors-unimplied", apply=config(lora_bias=False), fits=only("lora_bias")
    ),
    "targets narrowed": Fault(
        rule="tensors-untargeted", apply=config(target_modules=["o_proj"]), fits=listed
    ),
    "excluded": Fault(
        rule="tensors-untargeted", apply=config(exclude_modules=["qkv_proj"]), fits=linear
    ),
    "layers hidden": Fault(
        rule="tensors-untargeted", apply=config(layers_to_transform=[0]), fits=listed
    ),
    "split projections": Fault(
        rule="tensors-unknown-module",
        apply=rename(lambda n: n.replace("qkv_proj", "q_proj")),
        fits=lambda v: linear(v) and v not in ("regex", "saved_head"),
    ),
    "all projections split": Fault(
        rule="config-other-base",
        apply=rename(
            lambda n: n.replace("qkv_proj", "q_proj").replace("gate_up_proj", "gate_proj")
        ),
        fits=linear,
    ),
    "another architecture": Fault(
        rule="config-other-base",
        apply=rename(
            lambda n: n.replace("model.layers.", "transformer.h.")
            .replace("self_attn.qkv_proj", "attn.c_attn")
            .replace("_proj", "_c_proj")
        ),
        fits=linear,
    ),
    "kohya's own format": Fault(
        rule="files-format",
        apply=rename(
            lambda n: "lora_"
            + n.removeprefix(P)
            .replace(".lora_A", "#lora_down")
            .replace(".lora_B", "#lora_up")
            .replace(".", "_")
            .replace("#", ".")
            .replace("_weight", ".weight")
        ),
        fits=only("plain", "rslora", "all-linear", "regex"),
    ),
    "too many layers": Fault(
        rule="tensors-unknown-module",
        apply=shift_layers,
        fits=lambda v: v != "layers_pattern",
        base_only=True,
    ),
    "rank wrong": Fault(
        rule="tensors-shape",
        apply=config(r=2 * RANK),
        fits=lambda v: v in ("plain", "dora", "all-linear", "one_layer", "embeddings"),
    ),
    "rank pattern lost": Fault(
        rule="tensors-shape", apply=config(rank_pattern={}), fits=only("rank_pattern")
    ),
    "A and B swapped": Fault(rule="tensors-shape", apply=swap_all, fits=linear),
    "transposed": Fault(
        rule="tensors-shape", apply=shape(lambda t: t.T), places=True, fits=linear
    ),
    "empty shard": Fault(
        rule="tensors-shape", apply=shape(lambda t: t[:0]), places=True, fits=linear
    ),
    "flattened": Fault(
        rule="tensors-shape", apply=shape(lambda t: t.reshape(-1)), places=True, fits=linear
    ),
    "half the rows": Fault(
        rule="tensors-shape",
        apply=shape(lambda t: t[: len(t) // 2]),
        places=True,
        base_only=True,
        fits=linear,
    ),
    "every shard of qkv": Fault(
        rule="tensors-phi3-sizes",
        apply=shard_all,
        fits=lambda v: linear(v) and v != "saved_head",
    ),
    "integers": Fault(
        rule="tensors-dtype",
        apply=shape(lambda t: t.astype("int8")),
        places=True,
        fits=linear,
    ),
    "token rows missing": Fault(
        rule="tensors-missing",
        apply=drop("trainable_tokens_delta"),
        places=True,
        fits=only("trained_tokens"),
    ),
    "token rows not declared": Fault(
        rule="tensors-unimplied",
        apply=config(trainable_token_indices=None),
        fits=only("trained_tokens"),
    ),
    "one token row missing in the config": Fault(
        rule="tensors-shape",
        apply=config(trainable_token_indices={"embed_tokens": [3], "lm_head": [3]}),
        fits=only("trained_tokens"),
    ),
    "tokens of no table": Fault(
        rule="tensors-token-rows",
        apply=config(trainable_token_indices={"embed_tokens": [3, 90], "o_proj": [3]}),
        fits=only("trained_tokens"),
    ),
    "a token beyond the table": Fault(
        rule="tensors-token-rows",
        apply=config(trainable_token_indices={"embed_tokens": [3, 96], "lm_head": [3]}),
        fits=only("trained_tokens"),
        base_only=True,
    ),
    "more blocks": Fault(
        rule="tensors-shape",
        apply=config(use_bdlora={"target_modules_bd_b": list(LEAVES), "nblocks": 4}),
        fits=only("block_diagonal"),
    ),
    "blocks forgotten": Fault(
        rule="tensors-shape", apply=config(use_bdlora=None), fits=only("block_diagonal")
    ),
    "a module in both lists": Fault(
        rule="tensors-target-unsupported",
        apply=config(use_bdlora={"target_modules_bd_a": ["proj"], "target_modules_bd_b": ["o_"]}),
        fits=only("plain", "block_diagonal"),
    ),
    "a module in no list": Fault(
        rule="tensors-target-unsupported",
        apply=config(use_bdlora={"target_modules_bd_a": ["qkv_proj"]}),
        fits=only("plain", "block_diagonal"),
    ),
    "sampler forgotten": Fault(
        rule="tensors-unimplied", apply=config(monteclora_config=None), fits=only("monteclora")
    ),
    "sampler lost": Fault(
        rule="tensors-missing", apply=drop("std_prior"), places=True, fits=only("monteclora")
    ),
    "another sampler": Fault(
        rule="tensors-shape",
        apply=config(monteclora_config={"num_samples": 4}),
        fits=only("monteclora"),
    ),
    "groups forgotten": Fault(
        rule="tensors-unimplied", apply=config(velora_config=None), fits=only("velora")
    ),
    "another number of groups": Fault(
        rule="tensors-shape", apply=config(velora_config={"num_groups": 2}), fits=only("velora")
    ),
    "parameters forgotten": Fault(
        rule="tensors-untargeted", apply=config(target_parameters=None), fits=only("parameters")
    ),
    "a weight adapted twice": Fault(
        rule="tensors-target-unsupported",
        apply=config(target_modules=list(LEAVES)),
        fits=only("parameters"),
    ),
    "a norm as target": Fault(
        rule="tensors-target-unsupported", apply=config(target_modules=[*LEAVES, "norm"]),
        fits=listed,
    ),
    "no target": Fault(
        rule="tensors-target-unsupported", apply=config(target_modules=["query"]), fits=listed
    ),
}  # fmt: skip
