"""Faults that only a comparison with the base can find."""

from tests.adapter.faults.ways import (
    Fault,
    config,
    end_in_zeros,
    in_another_order,
    of_another_model,
    one_b,
    only,
    scale,
    scale_all,
    whole,
    widen,
    with_one,
)

BASE: dict[str, Fault] = {
    "another table": Fault(
        rule="base-embedding-copy",
        apply=scale_all("base_layer.weight", 1.001),
        fits=only("embeddings"),
        base_only=True,
    ),
    "a base of another width": Fault(
        rule="base-sizes",
        apply=widen,
        fits=only("plain", "dora", "all-linear", "velora", "rank_pattern"),
        base_only=True,
    ),
    "magnitudes of another base": Fault(
        rule="base-dora-magnitude",
        apply=scale_all("magnitude_vector", 8),
        fits=only("dora"),
        base_only=True,
    ),
    "one magnitude of another base": Fault(
        rule="base-dora-magnitude",
        apply=whole("magnitude_vector", with_one(30.0)),
        fits=only("dora"),
        base_only=True,
    ),
    "one magnitude almost zero": Fault(
        rule="base-dora-magnitude",
        apply=whole("magnitude_vector", with_one(1e-3)),
        fits=only("dora"),
        base_only=True,
    ),
    "head of another model": Fault(
        rule="base-saved-module",
        apply=whole("lm_head.weight", of_another_model),
        fits=only("saved_head"),
        base_only=True,
    ),
    "half a head": Fault(
        rule="base-saved-module",
        apply=whole("lm_head.weight", end_in_zeros(0.5)),
        fits=only("saved_head"),
        base_only=True,
    ),
    "head scaled": Fault(
        rule="base-saved-module",
        apply=scale_all("lm_head.weight", 200),
        fits=only("saved_head"),
        base_only=True,
    ),
    "norm turned round": Fault(
        rule="base-saved-module",
        apply=scale_all("model.norm.weight", -1),
        fits=only("saved_head"),
        base_only=True,
    ),
    "head in another order": Fault(
        rule="base-saved-module",
        apply=whole("lm_head.weight", in_another_order),
        fits=only("saved_head"),
        base_only=True,
    ),
    "magnitudes in another order": Fault(
        rule="base-dora-magnitude",
        apply=whole("magnitude_vector", in_another_order),
        fits=only("dora"),
        base_only=True,
    ),
    "token rows in another order": Fault(
        rule="base-token-rows",
        apply=whole("trainable_tokens_delta", lambda rows: rows[::-1]),
        fits=only("trained_tokens"),
        base_only=True,
    ),
    "token rows scaled": Fault(
        rule="base-token-rows",
        apply=scale_all("trainable_tokens_delta", 500),
        fits=only("trained_tokens"),
        base_only=True,
    ),
    "a token row lost": Fault(
        rule="base-token-rows",
        apply=whole("embed_tokens.token_adapter.trainable_tokens_delta", end_in_zeros(0.5)),
        fits=only("trained_tokens"),
        base_only=True,
    ),
    "delta almost zero": Fault(
        rule="base-delta-negligible",
        apply=scale_all("lora_B.weight", 1e-5),
        fits=only("plain", "all-linear", "velora"),
        base_only=True,
    ),
    "one kind almost zero": Fault(
        rule="base-delta-negligible",
        apply=config(alpha_pattern={"qkv_proj": 1e-6}),
        fits=only("plain", "dora", "all-linear", "saved_head", "one_layer", "lora_bias"),
        base_only=True,
    ),
    "one module almost zero": Fault(
        rule="base-delta-negligible",
        apply=scale(one_b, 1e-8),
        places=True,
        fits=only("plain", "dora", "all-linear", "saved_head", "lora_bias"),
        base_only=True,
    ),
    "delta dwarfs weight": Fault(
        rule="base-delta-size",
        apply=scale_all("lora_B.weight", 500),
        fits=only("plain", "dora", "all-linear"),
        base_only=True,
    ),
}  # fmt: skip
