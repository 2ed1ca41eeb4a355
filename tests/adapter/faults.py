"""Ways to spoil an adapter: each names the rule that must find it.

A fault is a function that changes an `Adapter`; it is put into every healthy variant that it fits,
at the first, a middle or the last tensor of its kind, with and without a base beside.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.adapter.builders import HIDDEN, LEAVES, RANK, Adapter, P, pack

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PLACES = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of damage. ``places`` is False where there is only one place for it."""

    rule: str
    apply: Callable[[Adapter, float], object]
    fits: Callable[[str], bool] = lambda variant: True
    places: bool = False
    base_only: bool = False


def at(names: list[str], place: float) -> str:
    return names[round((len(names) - 1) * place)]


def _b(adapter: Adapter, place: float) -> str:
    return at(adapter.names("lora_B.weight"), place)


def _a(adapter: Adapter, place: float) -> str:
    return at(adapter.names("lora_A.weight"), place)


def _put(value: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        name = at(list(adapter.tensors), place)
        array = adapter.array(name).copy()
        array.reshape(-1)[round((array.size - 1) * place)] = value
        adapter.tensors[name] = array

    return apply


def _scale(name: Callable[[Adapter, float], str], by: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        key = name(adapter, place)
        adapter.tensors[key] = adapter.array(key) * np.float32(by)

    return apply


def _scale_all(end: str, by: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        for name in adapter.names(end):
            adapter.tensors[name] = adapter.array(name) * np.float32(by)

    return apply


def _shape(change: Callable[[Any], Any], kind: Callable[[Adapter, float], str] = _b) -> Any:
    def apply(adapter: Adapter, place: float) -> None:
        name = kind(adapter, place)
        adapter.tensors[name] = np.ascontiguousarray(change(adapter.array(name)))

    return apply


def _drop(end: str) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.tensors.pop(at(adapter.names(end), place))


def _config(**fields: Any) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.config.update(fields)


def _without(field: str) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.config.pop(field)


def _rename(change: Callable[[str], str]) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.rename(change)


def _rename_one(change: Callable[[str], str]) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        chosen = _b(adapter, place)
        adapter.rename(lambda name: change(name) if name == chosen else name)

    return apply


def _add(name: str, *shape: int) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        adapter.tensors[name] = np.linspace(0.1, 1, int(np.prod(shape)), dtype="f4").reshape(shape)

    return apply


def _after(step: Callable[[Path], object]) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.after.append(step)


def _bytes(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Any:
    def step(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return _after(step)


def _swap_all(adapter: Adapter, place: float) -> None:
    swap = {"lora_A": "lora_B", "lora_B": "lora_A"}
    adapter.rename(lambda n: ".".join(swap.get(part, part) for part in n.split(".")))


def _cut_layer(adapter: Adapter, place: float) -> None:
    adapter.tensors = {n: t for n, t in adapter.tensors.items() if ".layers.0." not in n}


def _shift_layers(adapter: Adapter, place: float) -> None:
    adapter.rename(lambda n: n.replace(".layers.1.", ".layers.7."))


def _shard_all(adapter: Adapter, place: float) -> None:
    for name in adapter.names("qkv_proj.lora_A.weight"):
        adapter.tensors[name] = adapter.array(name)[:, : HIDDEN // 2].copy()


def _double(adapter: Adapter, place: float) -> None:
    name = _b(adapter, place)
    adapter.tensors[name.replace(".weight", ".default.weight")] = adapter.tensors[name]


def _link(folder: Path) -> None:
    (folder / "outside").symlink_to("/etc/hostname")


def _weights_link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "blob")
    (folder / WEIGHTS).symlink_to("blob")


def _only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}.")


def _linear(variant: str) -> bool:
    return variant not in ("float16", "bfloat16")


def _fixed_layers(variant: str) -> bool:
    """Whether the config alone says that layer 0 must be there."""
    return variant not in ("one_layer", "full_names") and _linear(variant)


def _listed(variant: str) -> bool:
    return variant in ("plain", "rslora", "gaussian", "dora", "rank_pattern", "lora_bias")


def _only(*variants: str) -> Callable[[str], bool]:
    return lambda variant: variant in variants


def _trained_b(variant: str) -> bool:
    return _linear(variant)


FAULTS: dict[str, Fault] = {
    # files
    "truncated": Fault(rule="files-weights-unreadable", apply=_bytes(lambda d: d[:-7])),
    "trailing bytes": Fault(rule="files-weights-unreadable", apply=_bytes(lambda d: d + b"\0")),
    "empty file": Fault(rule="files-weights-unreadable", apply=_bytes(lambda d: b"")),
    "git-lfs pointer": Fault(
        rule="files-weights-unreadable",
        apply=_bytes(lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    "renamed pickle": Fault(
        rule="files-weights-unreadable", apply=_bytes(lambda d: b"PK\x03\x04" + bytes(99))
    ),
    "no tensors": Fault(rule="files-weights-empty", apply=_bytes(lambda d: pack({}))),
    "weights missing": Fault(
        rule="files-weights-missing", apply=_after(lambda f: (f / WEIGHTS).unlink())
    ),
    "only a pickle": Fault(rule="files-pickled-weights", apply=_after(_only_pickle)),
    "config missing": Fault(
        rule="files-config-missing", apply=_after(lambda f: (f / CONFIG).unlink())
    ),
    "config half written": Fault(
        rule="files-config-unreadable", apply=_bytes(lambda d: d[: len(d) // 2], CONFIG)
    ),
    "config key twice": Fault(
        rule="files-config-unreadable", apply=_bytes(lambda d: b'{"r": 1,' + d[1:], CONFIG)
    ),
    "config with NaN": Fault(
        rule="files-config-unreadable", apply=_bytes(lambda d: b'{"x": NaN,' + d[1:], CONFIG)
    ),
    "link beside": Fault(rule="files-not-regular", apply=_after(_link)),
    "weights a link": Fault(rule="files-not-regular", apply=_after(_weights_link)),
    "pipe beside": Fault(
        rule="files-not-regular", apply=_after(lambda f: os.mkfifo(f / "README.md"))
    ),
    # config
    "r missing": Fault(rule="config-field-missing", apply=_without("r")),
    "alpha missing": Fault(rule="config-field-missing", apply=_without("lora_alpha")),
    "peft type missing": Fault(rule="config-field-missing", apply=_without("peft_type")),
    "r zero": Fault(rule="config-value", apply=_config(r=0)),
    "r text": Fault(rule="config-value", apply=_config(r="4")),
    "r true": Fault(rule="config-value", apply=_config(r=True)),
    "r float": Fault(rule="config-value", apply=_config(r=4.0)),
    "r huge": Fault(rule="config-value", apply=_config(r=10**9)),
    "alpha text": Fault(rule="config-value", apply=_config(lora_alpha="8")),
    "alpha beyond float32": Fault(rule="config-value", apply=_config(lora_alpha=1e300)),
    "dropout one": Fault(rule="config-value", apply=_config(lora_dropout=1.0)),
    "another peft type": Fault(rule="config-value", apply=_config(peft_type="IA3")),
    "targets null": Fault(rule="config-value", apply=_config(target_modules=None)),
    "rslora a number": Fault(rule="config-value", apply=_config(use_rslora=1)),
    "init unknown": Fault(rule="config-value", apply=_config(init_lora_weights="magic")),
    "bias unknown": Fault(rule="config-value", apply=_config(bias="some")),
    "megatron core": Fault(rule="config-value", apply=_config(megatron_core="os.path")),
    "rank pattern text": Fault(rule="config-value", apply=_config(rank_pattern={"o_proj": "4"})),
    "alpha zero": Fault(rule="config-alpha-zero", apply=_config(lora_alpha=0)),
    "alpha pattern zero": Fault(
        rule="config-alpha-zero", apply=_config(alpha_pattern={"qkv_proj": 0})
    ),
    "classification": Fault(rule="config-task-type", apply=_config(task_type="SEQ_CLS")),
    "unknown field": Fault(rule="config-unknown-field", apply=_config(use_magic=True)),
    "layers need a list": Fault(
        rule="config-conflict",
        apply=_config(layers_to_transform=[0]),
        fits=_only("all-linear", "regex"),
    ),
    "pattern without layers": Fault(
        rule="config-conflict",
        apply=_config(layers_pattern=["layers"]),
        fits=_only("plain", "regex"),
    ),
    "bias with dora": Fault(
        rule="config-conflict", apply=_config(lora_bias=True), fits=_only("dora")
    ),
    "odd orthogonal": Fault(
        rule="config-conflict", apply=_config(r=3), fits=_only("orthogonal")
    ),
    "endless pattern": Fault(
        rule="config-pattern", apply=_config(rank_pattern={r"(a|a)*(?=b)": 4})
    ),
    "invalid pattern": Fault(rule="config-pattern", apply=_config(target_modules="*o_proj")),
    "back reference": Fault(rule="config-pattern", apply=_config(exclude_modules=r"(x+)\1+y")),
    # tensors
    "lower case": Fault(
        rule="tensors-key",
        apply=_rename(lambda n: n.replace("lora_A", "lora_a").replace("lora_B", "lora_b")),
        fits=_linear,
    ),
    "kohya": Fault(
        rule="tensors-key",
        apply=_rename(lambda n: n.replace("lora_A", "lora_down").replace("lora_B", "lora_up")),
        fits=_linear,
    ),
    "compiled": Fault(
        rule="tensors-key", apply=_rename(lambda n: n.replace(P, P + "_orig_mod."))
    ),
    "compiled outside": Fault(rule="tensors-key", apply=_rename(lambda n: "_orig_mod." + n)),
    "ddp": Fault(rule="tensors-key", apply=_rename(lambda n: "module." + n)),
    "fsdp": Fault(
        rule="tensors-key",
        apply=_rename(lambda n: n.replace(".layers.0.", ".layers.0._fsdp_wrapped_module.")),
        fits=lambda v: v != "one_layer",
    ),
    "no prefix": Fault(rule="tensors-key", apply=_rename(lambda n: n.removeprefix(P))),
    "prefix twice": Fault(rule="tensors-key", apply=_rename(lambda n: P + n)),
    "half a prefix": Fault(
        rule="tensors-unknown-module", apply=_rename(lambda n: n.replace(P + "model.", P)),
        fits=_linear,
    ),
    "no ending": Fault(
        rule="tensors-key",
        apply=_rename_one(lambda n: n.removesuffix(".weight")),
        places=True,
        fits=_linear,
    ),
    "another adapter's name": Fault(
        rule="tensors-key",
        apply=_rename(lambda n: n.replace(".weight", ".sql.weight")),
        fits=_only("plain", "rslora", "all-linear"),
    ),
    "the same twice": Fault(rule="tensors-key", apply=_double, places=True),
    "norm smuggled": Fault(
        rule="tensors-base-weight",
        apply=_add(f"{P}model.layers.0.input_layernorm.weight", HIDDEN),
        fits=lambda v: v != "saved_head",
    ),
    "head smuggled": Fault(
        rule="tensors-base-weight",
        apply=_add(f"{P}lm_head.weight", 96, HIDDEN),
        fits=lambda v: v not in ("saved_head", "embeddings"),
    ),
    "base layer smuggled": Fault(
        rule="tensors-base-weight",
        apply=_add(f"{P}model.layers.0.self_attn.qkv_proj.base_layer.weight", 64, HIDDEN),
    ),
    "bias smuggled": Fault(
        rule="tensors-base-weight",
        apply=_add(f"{P}model.layers.0.self_attn.qkv_proj.bias", 64),
    ),
    "A missing": Fault(
        rule="tensors-missing", apply=_drop("lora_A.weight"), places=True, fits=_linear
    ),
    "B missing": Fault(
        rule="tensors-missing", apply=_drop("lora_B.weight"), places=True, fits=_linear
    ),
    "layer missing": Fault(rule="tensors-missing", apply=_cut_layer, fits=_fixed_layers),
    "magnitude missing": Fault(
        rule="tensors-missing", apply=_drop("magnitude_vector"), places=True, fits=_only("dora")
    ),
    "dora flag set": Fault(
        rule="tensors-missing", apply=_config(use_dora=True), fits=_only("plain", "rslora")
    ),
    "bias flag set": Fault(
        rule="tensors-missing", apply=_config(lora_bias=True), fits=_only("plain", "rslora")
    ),
    "head not saved": Fault(
        rule="tensors-missing", apply=_drop("lm_head.weight"), fits=_only("saved_head")
    ),
    "dora flag lost": Fault(
        rule="tensors-unimplied", apply=_config(use_dora=False), fits=_only("dora")
    ),
    "bias flag lost": Fault(
        rule="tensors-unimplied", apply=_config(lora_bias=False), fits=_only("lora_bias")
    ),
    "targets narrowed": Fault(
        rule="tensors-untargeted", apply=_config(target_modules=["o_proj"]), fits=_listed
    ),
    "excluded": Fault(
        rule="tensors-untargeted", apply=_config(exclude_modules=["qkv_proj"]), fits=_linear
    ),
    "layers hidden": Fault(
        rule="tensors-untargeted", apply=_config(layers_to_transform=[0]), fits=_listed
    ),
    "split projections": Fault(
        rule="tensors-unknown-module",
        apply=_rename(lambda n: n.replace("qkv_proj", "q_proj")),
        fits=_linear,
    ),
    "too many layers": Fault(
        rule="tensors-unknown-module",
        apply=_shift_layers,
        fits=lambda v: v != "layers_pattern",
        base_only=True,
    ),
    "rank wrong": Fault(
        rule="tensors-shape",
        apply=_config(r=2 * RANK),
        fits=lambda v: v in ("plain", "dora", "all-linear", "one_layer", "embeddings"),
    ),
    "rank pattern lost": Fault(
        rule="tensors-shape", apply=_config(rank_pattern={}), fits=_only("rank_pattern")
    ),
    "A and B swapped": Fault(rule="tensors-shape", apply=_swap_all, fits=_linear),
    "transposed": Fault(
        rule="tensors-shape", apply=_shape(lambda t: t.T), places=True, fits=_linear
    ),
    "empty shard": Fault(
        rule="tensors-shape", apply=_shape(lambda t: t[:0]), places=True, fits=_linear
    ),
    "flattened": Fault(
        rule="tensors-shape", apply=_shape(lambda t: t.reshape(-1)), places=True, fits=_linear
    ),
    "half the rows": Fault(
        rule="tensors-shape",
        apply=_shape(lambda t: t[: len(t) // 2]),
        places=True,
        base_only=True,
        fits=_linear,
    ),
    "every shard of qkv": Fault(
        rule="tensors-phi3-sizes",
        apply=_shard_all,
        fits=lambda v: _linear(v) and v != "saved_head",
    ),
    "integers": Fault(
        rule="tensors-dtype",
        apply=_shape(lambda t: t.astype("int8")),
        places=True,
        fits=_linear,
    ),
    "a norm as target": Fault(
        rule="tensors-target-unsupported", apply=_config(target_modules=[*LEAVES, "norm"]),
        fits=_listed,
    ),
    "no target": Fault(
        rule="tensors-target-unsupported", apply=_config(target_modules=["query"]), fits=_listed
    ),
    # values
    "nan": Fault(rule="values-nan", apply=_put(float("nan")), places=True, fits=_linear),
    "inf": Fault(rule="values-inf", apply=_put(float("inf")), places=True, fits=_linear),
    "minus inf": Fault(rule="values-inf", apply=_put(float("-inf")), places=True, fits=_linear),
    "all B zero": Fault(
        rule="values-untrained",
        apply=_scale_all("lora_B.weight", 0),
        fits=lambda v: _linear(v) and v != "embeddings",
    ),
    "all A zero": Fault(
        rule="values-untrained",
        apply=_scale_all("lora_A.weight", 0),
        fits=lambda v: _linear(v) and v != "embeddings",
    ),
    "one B zero": Fault(
        rule="values-dead-module", apply=_scale(_b, 0), places=True, fits=_linear
    ),
    "one A zero": Fault(
        rule="values-dead-module", apply=_scale(_a, 0), places=True, fits=_linear
    ),
    "embedding A zero": Fault(
        rule="values-dead-module",
        apply=_scale_all("lora_embedding_A", 0),
        fits=_only("embeddings"),
    ),
    "filled with ones": Fault(
        rule="values-constant", apply=_shape(np.ones_like), places=True, fits=_linear
    ),
    "all exploded": Fault(
        rule="values-explosion", apply=_scale_all("lora_B.weight", 1e4), fits=_linear
    ),
    "one exploded": Fault(
        rule="values-explosion", apply=_scale(_b, 1e4), places=True, fits=_linear
    ),
    "beyond float32": Fault(
        rule="values-explosion", apply=_scale(_b, 1e30), places=True, fits=_linear
    ),
    "magnitude zero": Fault(
        rule="values-magnitude", apply=_scale_all("magnitude_vector", 0), fits=_only("dora")
    ),
    # base
    "another table": Fault(
        rule="base-embedding-copy",
        apply=_scale_all("base_layer.weight", 1.001),
        fits=_only("embeddings"),
        base_only=True,
    ),
    "delta dwarfs weight": Fault(
        rule="base-delta-size",
        apply=_scale_all("lora_B.weight", 500),
        fits=_only("plain", "dora", "all-linear"),
        base_only=True,
    ),
}  # fmt: skip

REFUSED_VALUES: dict[str, Any] = {
    "layer_replication": [[0, 2], [0, 2]],
    "megatron_config": {"tensor_model_parallel_size": 1},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "kasa_config": {"beta": 1e-4},
    "arrow_config": {"top_k": 3},
    "alora_invocation_tokens": [1, 2],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 4},
    "monteclora_config": {"num_samples": 8},
    "target_parameters": ["mlp.experts.weight"],
    "trainable_token_indices": [0, 1],
    "ensure_weight_tying": True,
    "auto_mapping": {"base_model_class": "x", "parent_library": "os"},
    "init_lora_weights": "pissa",
}
"""Fields that are refused by name, each with a value that peft would act on."""

for _label in ("pissa_niter_4", "olora", "PiSSA", "corda", "loftq", "lora_ga"):
    FAULTS[f"init {_label}"] = Fault(rule="config-refused", apply=_config(init_lora_weights=_label))
for _field, _value in REFUSED_VALUES.items():
    FAULTS[f"set {_field}"] = Fault(rule="config-refused", apply=_config(**{_field: _value}))


def cases(fault: str, variants: list[str]) -> list[tuple[str, float, bool]]:
    """Return every (variant, place, with a base) that a fault fits."""
    found = FAULTS[fault]
    return [
        (variant, place, based)
        for variant in variants
        if found.fits(variant)
        for place in (PLACES if found.places else (0.0,))
        for based in ((True,) if found.base_only else (False, True))
        if not (based and found.rule == "tensors-phi3-sizes")
    ]


def spoil(adapter: Adapter, name: str, place: float) -> Adapter:
    """Put a fault into an adapter, and return the same adapter."""
    FAULTS[name].apply(adapter, place)
    return adapter
