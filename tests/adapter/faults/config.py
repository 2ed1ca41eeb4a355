"""Faults of adapter_config.json: PEFT rejects it, or applies it differently from what it says."""

from typing import Any

from tests.adapter.faults.ways import Fault, config, only, without

CONFIG: dict[str, Fault] = {
    "another class of the base": Fault(
        rule="config-refused",
        apply=config(
            task_type=None,
            auto_mapping={
                "base_model_class": "Phi3ForSequenceClassification",
                "parent_library": "transformers.models.phi3.modeling_phi3",
            },
        ),
    ),
    "a proposed revision": Fault(rule="config-base-name", apply=config(revision="refs/pr/66")),
    "r missing": Fault(rule="config-field-missing", apply=without("r")),
    "alpha missing": Fault(rule="config-field-missing", apply=without("lora_alpha")),
    "peft type missing": Fault(rule="config-field-missing", apply=without("peft_type")),
    "r zero": Fault(rule="config-value", apply=config(r=0)),
    "r text": Fault(rule="config-value", apply=config(r="4")),
    "r true": Fault(rule="config-value", apply=config(r=True)),
    "r float": Fault(rule="config-value", apply=config(r=4.0)),
    "r huge": Fault(rule="config-value", apply=config(r=10**9)),
    "alpha text": Fault(rule="config-value", apply=config(lora_alpha="8")),
    "alpha beyond float32": Fault(rule="config-value", apply=config(lora_alpha=1e300)),
    "dropout one": Fault(rule="config-value", apply=config(lora_dropout=1.0)),
    "another peft type": Fault(rule="files-format", apply=config(peft_type="IA3")),
    "targets null": Fault(
        rule="config-value",
        apply=config(target_modules=None),
        fits=lambda variant: variant != "parameters",
    ),
    "dropout null": Fault(rule="config-value", apply=config(lora_dropout=None)),
    "bias null": Fault(rule="config-value", apply=config(bias=None)),
    "rank pattern null": Fault(rule="config-value", apply=config(rank_pattern=None)),
    "alpha pattern null": Fault(rule="config-value", apply=config(alpha_pattern=None)),
    "parts of layers": Fault(
        rule="config-refused", apply=config(enable_lora=[True, False, True])
    ),
    "a switch of a fork": Fault(rule="config-unknown-field", apply=config(use_mora=1)),
    "a variant of a fork": Fault(
        rule="config-unknown-field", apply=config(hydra_config={"heads": 3})
    ),
    "a number of a newer peft": Fault(
        rule="config-unknown-field", apply=config(hydra_heads=3, peft_version="0.99.0.dev0@abc")
    ),
    "rslora a number": Fault(rule="config-value", apply=config(use_rslora=1)),
    "init unknown": Fault(rule="config-value", apply=config(init_lora_weights="magic")),
    "bias unknown": Fault(rule="config-value", apply=config(bias="some")),
    "megatron core": Fault(rule="config-value", apply=config(megatron_core="os.path")),
    "rank pattern text": Fault(rule="config-value", apply=config(rank_pattern={"o_proj": "4"})),
    "alpha zero": Fault(rule="config-alpha-zero", apply=config(lora_alpha=0)),
    "alpha pattern zero": Fault(
        rule="config-alpha-zero", apply=config(alpha_pattern={"qkv_proj": 0})
    ),
    "classification": Fault(rule="config-task-type", apply=config(task_type="SEQ_CLS")),
    "unknown field": Fault(rule="config-unknown-field", apply=config(use_magic=True)),
    "layers need a list": Fault(
        rule="config-conflict",
        apply=config(layers_to_transform=[0]),
        fits=only("all-linear", "regex"),
    ),
    "empty layers need a list": Fault(
        rule="config-conflict",
        apply=config(layers_to_transform=[]),
        fits=only("all-linear", "regex"),
    ),
    "pattern without layers": Fault(
        rule="config-conflict",
        apply=config(layers_pattern=["layers"]),
        fits=only("plain", "regex"),
    ),
    "bias with dora": Fault(
        rule="config-conflict", apply=config(lora_bias=True), fits=only("dora")
    ),
    "odd orthogonal": Fault(
        rule="config-conflict", apply=config(r=3), fits=only("orthogonal")
    ),
    "two variants": Fault(
        rule="config-conflict",
        apply=config(velora_config={"num_groups": 4}),
        fits=only("dora", "block_diagonal", "monteclora"),
    ),
    "parameters with dropout": Fault(
        rule="config-conflict", apply=config(lora_dropout=0.1), fits=only("parameters")
    ),
    "a table whole and in rows": Fault(
        rule="config-conflict",
        apply=config(modules_to_save=["embed_tokens"]),
        fits=only("trained_tokens"),
    ),
    "no samples": Fault(
        rule="config-value", apply=config(monteclora_config={"num_samples": 0})
    ),
    "blocks a text": Fault(rule="config-value", apply=config(use_bdlora="yes")),
    "blocks of another version": Fault(
        rule="config-value", apply=config(use_bdlora={"nblocks": 2, "rows": 1})
    ),
    "groups a text": Fault(
        rule="config-value", apply=config(velora_config={"num_groups": "4"})
    ),
    "a token twice": Fault(
        rule="config-value", apply=config(trainable_token_indices=[3, 3])
    ),
    "a negative token": Fault(
        rule="config-value", apply=config(trainable_token_indices={"lm_head": [-1]})
    ),
    "endless pattern": Fault(
        rule="config-pattern", apply=config(rank_pattern={r"([a-z]|.)*!": 4})
    ),
    "endless look-ahead": Fault(
        rule="config-pattern", apply=config(exclude_modules=r"(?=([a-z]|.)*!).*")
    ),
    "polynomial pattern": Fault(
        rule="config-pattern", apply=config(exclude_modules=r".*.*.*.*.*.*.*.*!")
    ),
    "invalid pattern": Fault(rule="config-pattern", apply=config(target_modules="*o_proj")),
    "invalid back reference": Fault(
        rule="config-pattern", apply=config(exclude_modules=r"(x+)\2")
    ),
    "flags inside": Fault(rule="config-pattern", apply=config(rank_pattern={"(?i)o_proj": 4})),
    "back reference for alpha": Fault(
        rule="config-pattern", apply=config(alpha_pattern={r"(x+)\1+y": 4})
    ),
}  # fmt: skip

for _field in ("arrow_config", "kasa_config"):  # peft takes defaults where they are empty
    CONFIG[f"empty {_field}"] = Fault(rule="config-refused", apply=config(**{_field: {}}))
for _field, _value in {"use_bdlora": False, "trainable_token_indices": []}.items():
    CONFIG[f"nothing as {_field}"] = Fault(rule="config-value", apply=config(**{_field: _value}))

REFUSED_VALUES: dict[str, Any] = {
    "layer_replication": [[0, 2], [0, 2]],
    "megatron_config": {"tensor_model_parallel_size": 1},
    "kasa_config": {"beta": 1e-4},
    "arrow_config": {"top_k": 3},
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "init_lora_weights": "pissa",
}
"""Fields that are rejected by name, each with a value that peft would act on."""

_PHI3 = "transformers.models.phi3.modeling_phi3"
for _number, _mapping in enumerate((
    {"base_model_class": "os.system", "parent_library": _PHI3},
    {"base_model_class": "nn", "parent_library": _PHI3},
    {"base_model_class": "Phi3ForCausalLM", "parent_library": f"{_PHI3}.evil"},
    {"base_model_class": "Phi3ForCausalLM", "parent_library": "transformers_modules.phi3"},
    {"base_model_class": "Phi3ForCausalLM", "parent_library": _PHI3, "code": "x.py"},
    {"base_model_class": "x", "parent_library": "os"},
    {"base_model_class": "Phi3Model", "parent_library": _PHI3},
    {"base_model_class": "PeftModel", "parent_library": "peft"},
    {"base_model_class": "Phi3ForCausalLM", "parent_library": ["os"]},
    "Phi3ForCausalLM",
)):  # fmt: skip
    _apply = config(auto_mapping=_mapping, task_type=None)
    CONFIG[f"mapping {_number}"] = Fault(rule="config-refused", apply=_apply)
for _label in ("pissa_niter_4", "olora", "PiSSA", "corda", "loftq", "lora_ga"):
    CONFIG[f"init {_label}"] = Fault(rule="config-refused", apply=config(init_lora_weights=_label))
for _field, _value in REFUSED_VALUES.items():
    CONFIG[f"set {_field}"] = Fault(rule="config-refused", apply=config(**{_field: _value}))
