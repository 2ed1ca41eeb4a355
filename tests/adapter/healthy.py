"""Builders of healthy adapters of every kind that peft supports."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.adapter.adapters import RANK, Adapter, P, base_config, factors, plain
from tests.adapter.packing import Array, Raw, bf16
from tests.adapter.tiny_base import HIDDEN, LEAVES, VOCABULARY, base_tensors, module_names, sizes


def _with(tensors: dict[str, Array | Raw] | None = None, **config: Any) -> Callable[[], Adapter]:
    def make() -> Adapter:
        return Adapter(
            config=base_config() | copy.deepcopy(config),
            tensors=dict(tensors or factors(module_names())),
        )

    return make


def dora() -> Adapter:
    adapter = plain()
    adapter.config["use_dora"] = True
    random, base = np.random.default_rng(1), base_tensors()
    for module in module_names():
        norms = np.linalg.norm(base[f"{module}.weight"], axis=1)
        magnitude = (norms * random.uniform(0.8, 1.2, norms.shape)).astype("float32")
        adapter.tensors[f"{P}{module}.lora_magnitude_vector"] = magnitude
    return adapter


def dora_table() -> Adapter:
    """DoRA on the embedding table only: its magnitudes are norms over all tokens."""
    adapter = embeddings()
    adapter.config |= {"use_dora": True, "target_modules": ["embed_tokens"]}
    adapter.tensors = {n: t for n, t in adapter.tensors.items() if "embed_tokens" in n}
    a, b = (adapter.array(f"{P}model.embed_tokens.lora_embedding_{x}") for x in "AB")
    combined = base_tensors()["model.embed_tokens.weight"] + 8 / RANK * (b @ a).T
    norms = np.linalg.norm(combined, axis=0).astype("float32")
    adapter.tensors[f"{P}model.embed_tokens.lora_magnitude_vector"] = norms * np.float32(1.1)
    return adapter


def lora_bias() -> Adapter:
    adapter = plain()
    adapter.config["lora_bias"] = True
    random = np.random.default_rng(3)
    for module in module_names():
        bias = random.normal(0, 0.01, sizes(module)[1]).astype("float32")
        adapter.tensors[f"{P}{module}.lora_B.bias"] = bias
    return adapter


def mica() -> Adapter:
    adapter = plain()
    adapter.config["init_lora_weights"] = "mica"
    return adapter


def rank_pattern() -> Adapter:
    ranks = dict.fromkeys(module_names(("o_proj",)), 2)
    pattern = {"o_proj": 2, r"model\.layers\.1\.mlp\.(gate_up|down)_proj": 6}
    ranks |= dict.fromkeys(module_names(("gate_up_proj", "down_proj"), (1,)), 6)
    config = base_config() | {"rank_pattern": pattern, "alpha_pattern": {"o_proj": 16}}
    return Adapter(config=config, tensors=factors(module_names(), ranks=ranks))


def embeddings() -> Adapter:
    adapter = plain()
    adapter.config["target_modules"] = [*LEAVES, "embed_tokens", "lm_head"]
    adapter.tensors |= factors(["lm_head"], seed=3)
    random = np.random.default_rng(2)
    a = random.normal(0, 0.1, (RANK, VOCABULARY)).astype("float32")
    a[:, VOCABULARY // 2 :] = 0  # tokens that are not in the training data
    b = random.normal(0, 1, (HIDDEN, RANK)).astype("float32")
    adapter.tensors[f"{P}model.embed_tokens.lora_embedding_A"] = a
    adapter.tensors[f"{P}model.embed_tokens.lora_embedding_B"] = b
    weights = base_tensors()
    for module in ("model.embed_tokens", "lm_head"):
        adapter.tensors[f"{P}{module}.base_layer.weight"] = weights[f"{module}.weight"]
    return adapter


def saved_head() -> Adapter:
    adapter = plain()
    adapter.config["modules_to_save"] = ["lm_head", "norm"]
    adapter.config["target_modules"] = ["qkv_proj", "o_proj"]
    adapter.tensors = factors(module_names(("qkv_proj", "o_proj")))
    for name, tensor in base_tensors().items():
        if name.startswith("lm_head") or name.endswith("norm.weight"):
            adapter.tensors[P + name] = tensor * np.float32(1.01)
    return adapter


def trained_tokens() -> Adapter:
    adapter = plain()
    adapter.config["trainable_token_indices"] = {"embed_tokens": [3, 90], "lm_head": [3]}
    table = base_tensors()["model.embed_tokens.weight"]
    for module, tokens in (("model.embed_tokens", [3, 90]), ("lm_head", [3])):
        name = f"{P}{module}.token_adapter.trainable_tokens_delta"
        adapter.tensors[name] = table[tokens] * np.float32(1.1)
    return adapter


def block_diagonal() -> Adapter:
    adapter = plain()
    a, b = ["o_proj", "down_proj"], ["qkv_proj", "gate_up_proj"]
    adapter.config["use_bdlora"] = {
        "target_modules_bd_a": a, "target_modules_bd_b": b, "nblocks": 2, "match_strict": True,
    }  # fmt: skip
    for module in module_names():
        part = "lora_A" if module.endswith(tuple(a)) else "lora_B"
        name = f"{P}{module}.{part}.weight"
        array = adapter.array(name)
        adapter.tensors[name] = array[:, : array.shape[1] // 2].copy()
    return adapter


def velora() -> Adapter:
    adapter = plain()
    adapter.config["velora_config"] = {
        "num_groups": 5, "scale": 1.0, "init_type": "batch_average_once",
    }  # fmt: skip
    for module in module_names():
        width = -(-sizes(module)[0] // 5)
        adapter.tensors[f"{P}{module}.lora_velora_embed"] = np.zeros(width, "float32")
    return adapter


def monteclora() -> Adapter:
    adapter = plain()
    adapter.config["monteclora_config"] = {
        "num_samples": 8, "use_entropy": True, "dirichlet_prior": 1.0, "sample_scaler": 3e-4,
        "kl_loss_weight": 1e-5, "buffer_size": 10,
    }  # fmt: skip
    sampler = {
        "expert_weights": np.full(8, 0.125, "float32"),
        "expert_weights_prior": np.linspace(0.1, 0.9, 8, dtype="float32"),
        "gaussian_var_prior": np.eye(RANK, dtype="float32"),
        "std_prior": np.linspace(0.1, 0.9, RANK, dtype="float32"),
    }
    for module in module_names():
        for name, tensor in sampler.items():
            adapter.tensors[f"{P}{module}.lora_monteclora_sampler.{name}"] = tensor
    return adapter


def half(kind: str) -> Callable[[], Adapter]:
    def make() -> Adapter:
        adapter = plain()
        for name in list(adapter.tensors):
            array = adapter.array(name)
            adapter.tensors[name] = bf16(array) if kind == "bf16" else array.astype("float16")
        return adapter

    return make


UNSLOTH_PATTERN = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:qkv_proj|o_proj|gate_up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:qkv_proj|o_proj|gate_up_proj|down_proj)))"
)

LOOK_AHEAD = r"^(model(?=\.).*\.(qkv_proj|o_proj|gate_up_proj|down_proj))$"
"""What ms-swift 3 writes."""

MISTRAL = "transformers.models.mistral.modeling_mistral"

HEALTHY: dict[str, Callable[[], Adapter]] = {
    "plain": plain,
    "rslora": _with(use_rslora=True),
    "dora": dora,
    "dora_table": dora_table,
    "lora_bias": lora_bias,
    "mica": mica,
    "rank_pattern": rank_pattern,
    "embeddings": embeddings,
    "saved_head": saved_head,
    "float16": half("fp16"),
    "bfloat16": half("bf16"),
    "all-linear": _with(target_modules="all-linear"),
    "regex": _with(
        factors(module_names(("qkv_proj", "down_proj"))), target_modules=r".*\.(qkv|down)_proj"
    ),
    "look_ahead": _with(target_modules=LOOK_AHEAD),
    "look_around": _with(
        factors(module_names(("o_proj", "down_proj"))),
        target_modules=r"(?i:MODEL)(?!.*lm_head).*?(?<!qkv)(?<!_up)_proj",
    ),
    "unsloth_regex": _with(target_modules=UNSLOTH_PATTERN),
    "full_names": _with(target_modules=module_names()),
    "excluded": _with(
        factors(module_names(("qkv_proj", "o_proj", "gate_up_proj"))), exclude_modules=["down_proj"]
    ),
    "one_layer": _with(factors(module_names(layers=(1,))), layers_to_transform=[1]),
    "layers_pattern": _with(
        factors(module_names(layers=(0,))), layers_to_transform=0, layers_pattern="layers"
    ),
    "no_layers_listed": _with(layers_to_transform=[]),
    "gaussian": _with(init_lora_weights="gaussian"),
    "eva": _with(init_lora_weights="eva", eva_config={"rho": 2.0}, lora_alpha=8.5),
    "orthogonal": _with(init_lora_weights="orthogonal"),
    "init_false": _with(init_lora_weights=False),
    "init_null": _with(init_lora_weights=None),
    "bias_all": _with(bias="all"),
    "no_task": _with(
        task_type=None,
        auto_mapping={
            "base_model_class": "Phi3ForCausalLM",
            "parent_library": "transformers.models.phi3.modeling_phi3",
        },
    ),
    "unsloth_mapping": _with(
        auto_mapping={
            "base_model_class": "Phi3ForCausalLM",
            "parent_library": "transformers.models.phi3.modeling_phi3",
            "unsloth_fixed": True,
        }
    ),
    "split_mapping": _with(
        auto_mapping={
            "base_model_class": "MistralForCausalLM",
            "parent_library": MISTRAL,
            "unsloth_fixed": True,
        }
    ),
    "stacked_mapping": _with(
        auto_mapping={
            "base_model_class": "PeftModelForCausalLM",
            "parent_library": "peft.peft_model",
        },
    ),
    "remote_mapping": _with(
        auto_mapping={
            "base_model_class": "Phi3ForCausalLM",
            "parent_library": "transformers_modules.microsoft.Phi-3.5-mini.0a1b.modeling_phi3",
        },
    ),
    "short_mapping": _with(auto_mapping={"base_model_class": "Phi3ForCausalLM"}),
    "null_flags": _with(
        fan_in_fan_out=None,
        use_dora=None,
        use_rslora=None,
        lora_bias=None,
        inference_mode=None,
        ensure_weight_tying=None,
        init_lora_weights=None,
        use_qalora=None,
        qalora_group_size=None,
        megatron_core=None,
        loftq_config=None,
    ),
    "ms_swift": _with(swift_type="LORA", lorap_lr_ratio=16.0, lorap_emb_lr=1e-6, lora_dtype="bf16"),
    "peft_0_2": _with(enable_lora=None, merge_weights=True),
    "repeated_fields": _with(alpha=8, rank=RANK, runtime_config={"ephemeral_gpu_offload": False}),
    "future_fields": _with(use_something=False, something_config=None, somethings=[], note=""),
    "trained_tokens": trained_tokens,
    "block_diagonal": block_diagonal,
    "velora": velora,
    "monteclora": monteclora,
    "parameters": _with(
        target_modules=["qkv_proj", "o_proj"],
        target_parameters=["mlp.gate_up_proj.weight", "mlp.down_proj.weight"],
    ),
    "weight_tying": _with(ensure_weight_tying=True),
    "converted_pissa": _with(corda_config={"corda_method": "kpm"}),
}
"""Healthy adapters by name."""
