"""Adapters and bases made of numpy alone, shaped like a tiny Phi-3, for the tests to break.

The safetensors writer is the tests' own: it must also write what no library would.
"""

import copy
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint

HIDDEN, MIDDLE, VOCABULARY, LAYERS, RANK = 32, 48, 96, 2, 4
SIZES = {  # (inputs, outputs): 4 heads of 8, 2 of them shared by keys and values
    "self_attn.qkv_proj": (HIDDEN, HIDDEN + 2 * 2 * 8),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (HIDDEN, 2 * MIDDLE),
    "mlp.down_proj": (MIDDLE, HIDDEN),
}
LEAVES = tuple(name.rpartition(".")[2] for name in SIZES)
P = "base_model.model."

Array = np.ndarray[Any, Any]
Raw = tuple[str, tuple[int, ...], bytes]
"""A tensor in parts: dtype, shape and bytes, for what numpy has no type for."""

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "int32": "I32"}


def bf16(array: Array) -> Raw:
    """Round to bfloat16 by cutting, which is good enough for a test's data."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16
    return "BF16", array.shape, bits.astype("<u2").tobytes()


def pack(tensors: Mapping[str, Array | Raw], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    data = bytearray()
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            dtype, shape, content = tensor
        else:
            dtype, shape, content = _DTYPES[str(tensor.dtype)], tensor.shape, tensor.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    return pack_header(header, bytes(data))


def pack_header(header: Any, data: bytes = b"") -> bytes:
    """Return a file with this header, true or not; a text is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@dataclass
class Adapter:
    """An adapter that can still be spoilt: its config, its tensors and its other files."""

    config: dict[str, Any]
    tensors: dict[str, Array | Raw]
    files: dict[str, bytes] = field(default_factory=dict)
    after: list[Callable[[Path], object]] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        (folder / "adapter_model.safetensors").write_bytes(pack(self.tensors))
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        for step in self.after:
            step(folder)
        return folder

    def names(self, end: str) -> list[str]:
        return [name for name in self.tensors if name.endswith(end)]

    def array(self, name: str) -> Array:
        tensor = self.tensors[name]
        assert not isinstance(tensor, tuple)
        return tensor

    def rename(self, change: Callable[[str], str]) -> None:
        self.tensors = {change(name): tensor for name, tensor in self.tensors.items()}


def base_config() -> dict[str, Any]:
    """What peft 0.21 writes for a plain adapter, in the fields that matter and some that do not."""
    return {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
        "auto_mapping": None, "base_model_name_or_path": "tiny", "bias": "none",
        "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
        "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
        "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
        "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.0, "lora_ga_config": None,
        "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
        "qalora_group_size": 16, "r": RANK, "rank_pattern": {}, "revision": None,
        "target_modules": list(LEAVES), "target_parameters": None, "task_type": "CAUSAL_LM",
        "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False, "velora_config": None,
    }  # fmt: skip


def module_names(leaves: tuple[str, ...] = LEAVES, layers: tuple[int, ...] = (0, 1)) -> list[str]:
    return [
        f"model.layers.{layer}.{name}"
        for layer in layers
        for name in SIZES
        if name.rpartition(".")[2] in leaves
    ]


def sizes(module: str) -> tuple[int, int]:
    """Return (inputs, outputs) of a linear module of the tiny Phi-3."""
    if module == "lm_head":
        return HIDDEN, VOCABULARY
    return next(size for name, size in SIZES.items() if module.endswith(name))


def factors(
    modules: list[str], seed: int = 0, ranks: Mapping[str, int] | None = None
) -> dict[str, Array | Raw]:
    """Return trained-looking factors: A as peft starts it, B small."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array | Raw] = {}
    for module in modules:
        inputs, outputs = sizes(module)
        r = (ranks or {}).get(module, RANK)
        bound = inputs**-0.5
        a = random.uniform(-bound, bound, (r, inputs))
        b = random.normal(0, 0.02, (outputs, r))
        tensors[f"{P}{module}.lora_A.weight"] = a.astype("float32")
        tensors[f"{P}{module}.lora_B.weight"] = b.astype("float32")
    return tensors


def plain() -> Adapter:
    return Adapter(config=base_config(), tensors=factors(module_names()))


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
    """DoRA on the embedding table alone: its magnitudes are norms over all tokens."""
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
    a[:, VOCABULARY // 2 :] = 0  # tokens that training never saw
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
"""Adapters that peft loads and that do what they were trained to do."""


def old_config(version: str) -> dict[str, Any]:
    """What older peft versions wrote, field for field."""
    fields = {
        "0.5": "auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode "
        "init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout "
        "modules_to_save peft_type r revision target_modules task_type",
        "0.8": "alpha_pattern loftq_config megatron_config megatron_core rank_pattern use_rslora",
        "0.11": "layer_replication use_dora",
        "0.14": "eva_config exclude_modules lora_bias",
    }
    known: list[str] = []
    for since, names in fields.items():
        known += names.split()
        if since == version:
            break
    return {name: value for name, value in base_config().items() if name in known}


def base_tensors() -> dict[str, Array]:
    random = np.random.default_rng(7)
    tensors = {"model.embed_tokens.weight": random.normal(0, 0.1, (VOCABULARY, HIDDEN))}
    for layer in range(LAYERS):
        for name, (inputs, outputs) in SIZES.items():
            weight = random.normal(0, 0.1, (outputs, inputs))
            tensors[f"model.layers.{layer}.{name}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(HIDDEN)
    tensors["model.norm.weight"] = np.ones(HIDDEN)
    tensors["lm_head.weight"] = random.normal(0, 0.1, (VOCABULARY, HIDDEN))
    return {name: tensor.astype("float32") for name, tensor in tensors.items()}


MODEL_CONFIG = {
    "model_type": "phi3", "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY, "tie_word_embeddings": False,
}  # fmt: skip

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


WORDS = VOCABULARY - 6
"""Words of the tokenizer; behind them two added tokens, and four rows are spare, as in Phi-3."""


def added_token(number: int, content: str, **flags: bool) -> dict[str, Any]:
    """Return an added token as tokenizers writes it."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {
        "id": number,
        "content": content,
        **dict.fromkeys(names, False),
        "special": True,
    } | flags


def tokenizer_files(
    *, template: str = TEMPLATE, pad: str = "<|endoftext|>", extra: Mapping[str, int] | None = None
) -> dict[str, bytes]:
    words = {f"word{number}": number for number in range(WORDS)}
    added = {"<|endoftext|>": WORDS, "<|end|>": WORDS + 1} | dict(extra or {})
    tokenizer = {
        "version": "1.0",
        "model": {"type": "BPE", "vocab": words, "merges": []},
        "added_tokens": [added_token(number, token) for token, number in added.items()],
    }
    settings = {"pad_token": pad, "eos_token": "<|end|>", "chat_template": template}
    return {
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def pieces_file(pieces: list[tuple[str, float, int]]) -> bytes:
    """Return a SentencePiece model of these pieces: text, score and type."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    inner = [
        field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        for text, score, kind in pieces
    ]
    return b"".join(field(1, piece) for piece in inner) + field(2, b"\x20\x01")


def write_base(folder: Path, **changes: Any) -> Path:
    """Write the base that the adapters here are for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG | changes))
    (folder / "model.safetensors").write_bytes(pack(base_tensors()))
    for name, content in tokenizer_files().items():
        (folder / name).write_bytes(content)
    return folder


def report_on(adapter: Adapter, folder: Path, base: Path | None = None) -> LintReport:
    """Save an adapter and lint it."""
    opened = BaseFiles.open(base) if base else None
    return lint(AdapterFolder.open(adapter.save(folder)), opened)
