"""Faults of the numbers, which training never produces."""

import numpy as np

from tests.adapter.faults.ways import (
    Fault,
    cancel_all,
    cancel_one,
    clip_to_float16,
    config,
    copy_a,
    copy_a_b,
    copy_bias,
    copy_magnitudes,
    copy_nearly,
    end_in_zeros,
    gauge,
    hole,
    linear,
    one_a,
    one_b,
    one_component_filled,
    only,
    put,
    ramp,
    repeat_half,
    scale,
    scale_all,
    shape,
    whole,
    with_one,
)


def two_layers(variant: str) -> bool:
    return linear(variant) and variant != "one_layer"


def whole_ranks(variant: str) -> bool:
    """Whether factors are stored as they are multiplied, and all deltas are of linear modules."""
    return linear(variant) and variant not in ("block_diagonal", "embeddings")


def many_numbers(variant: str) -> bool:
    """Whether every factor has enough ranks and numbers for the fault to be found."""
    return linear(variant) and variant not in ("rank_pattern", "block_diagonal")


VALUES: dict[str, Fault] = {
    "nan": Fault(rule="values-nan", apply=put(float("nan")), places=True, fits=linear),
    "inf": Fault(rule="values-inf", apply=put(float("inf")), places=True, fits=linear),
    "minus inf": Fault(rule="values-inf", apply=put(float("-inf")), places=True, fits=linear),
    "all B zero": Fault(
        rule="values-untrained",
        apply=scale_all("lora_B.weight", 0),
        fits=lambda v: linear(v) and v != "embeddings",
    ),
    "all A zero": Fault(
        rule="values-untrained",
        apply=scale_all("lora_A.weight", 0),
        fits=lambda v: linear(v) and v != "embeddings",
    ),
    "one B zero": Fault(
        rule="values-dead-module", apply=scale(one_b, 0), places=True, fits=linear
    ),
    "one A zero": Fault(
        rule="values-dead-module", apply=scale(one_a, 0), places=True, fits=linear
    ),
    "embedding A zero": Fault(
        rule="values-dead-module",
        apply=scale_all("lora_embedding_A", 0),
        fits=only("embeddings"),
    ),
    "all B almost zero": Fault(
        rule="values-untrained", apply=scale_all("lora_B.weight", 1e-30), fits=whole_ranks
    ),
    "all B denormal": Fault(
        rule="values-untrained", apply=scale_all("lora_B.weight", 1e-40), fits=whole_ranks
    ),
    "one B denormal": Fault(
        rule="values-dead-module", apply=scale(one_b, 1e-40), places=True, fits=linear
    ),
    "one B almost zero": Fault(
        rule="values-dead-module", apply=scale(one_b, 1e-12), places=True, fits=linear
    ),
    "alpha almost zero": Fault(
        rule="values-untrained",
        apply=config(lora_alpha=1e-12),
        fits=lambda v: linear(v) and v != "rank_pattern",
    ),
    "one kind's alpha almost zero": Fault(
        rule="values-dead-module", apply=config(alpha_pattern={"qkv_proj": 1e-30}), fits=linear
    ),
    "all parts cancel": Fault(rule="values-untrained", apply=cancel_all, fits=whole_ranks),
    "one module's parts cancel": Fault(
        rule="values-dead-module",
        apply=cancel_one,
        places=True,
        fits=lambda v: linear(v) and v != "block_diagonal",
    ),
    "filled with a ramp": Fault(
        rule="values-constant", apply=shape(ramp, one_a), places=True, fits=linear
    ),
    "B a ramp": Fault(rule="values-constant", apply=shape(ramp), places=True, fits=linear),
    "one component filled": Fault(
        rule="values-constant", apply=shape(one_component_filled), places=True, fits=linear
    ),
    "all but one filled": Fault(
        rule="values-constant",
        apply=shape(lambda t: with_one(0.2)(np.full_like(t, 0.1))),
        places=True,
        fits=linear,
    ),
    "head filled": Fault(
        rule="values-constant",
        apply=whole("lm_head.weight", lambda t: np.full_like(t, 0.1)),
        fits=only("saved_head"),
    ),
    "table filled": Fault(
        rule="values-constant",
        apply=whole("base_layer.weight", lambda t: np.full_like(t, 0.1)),
        fits=only("embeddings"),
    ),
    "rows of A lost": Fault(
        rule="values-zero-tail", apply=shape(end_in_zeros(0.5), one_a), places=True, fits=linear
    ),
    "A torn within a row": Fault(
        rule="values-zero-tail", apply=shape(end_in_zeros(0.63), one_a), places=True, fits=linear
    ),
    "one number outweighs all": Fault(
        rule="values-spike",
        apply=shape(lambda t: with_one(50)(t.copy())),
        places=True,
        fits=many_numbers,
    ),
    "half of A written twice": Fault(
        rule="values-repeated",
        apply=shape(repeat_half(1), one_a),
        places=True,
        fits=many_numbers,
    ),
    "half of B written twice": Fault(
        rule="values-repeated", apply=shape(repeat_half(0)), places=True, fits=many_numbers
    ),
    "a hole in A": Fault(
        rule="values-zero-run", apply=shape(hole, one_a), places=True, fits=many_numbers
    ),
    "a hole in B": Fault(
        rule="values-zero-run", apply=shape(hole), places=True, fits=many_numbers
    ),
    "rows of a block lost": Fault(
        rule="values-zero-run",
        apply=whole("layers.0.self_attn.o_proj.lora_B.weight", end_in_zeros(0.5)),
        fits=lambda v: many_numbers(v) and v not in ("one_layer", "regex"),
    ),
    "A beyond float16": Fault(rule="values-weight-size", apply=gauge(1e8), fits=linear),
    "a bias copied": Fault(rule="values-copied", apply=copy_bias, fits=only("lora_bias")),
    "biases zero": Fault(
        rule="values-zero-weight", apply=scale_all("lora_B.bias", 0), fits=only("lora_bias")
    ),
    "filled with ones": Fault(
        rule="values-constant", apply=shape(np.ones_like), places=True, fits=linear
    ),
    "a layer written twice": Fault(
        rule="values-copied", apply=copy_a_b, fits=lambda v: linear(v) and v != "one_layer"
    ),
    "another layer's A": Fault(rule="values-copied", apply=copy_a, fits=two_layers),
    "nearly another layer's B": Fault(
        rule="values-copied", apply=copy_nearly(1.0001), fits=two_layers
    ),
    "another layer's B, halved and turned round": Fault(
        rule="values-copied", apply=copy_nearly(-0.5), fits=two_layers
    ),
    "another layer's magnitudes": Fault(
        rule="values-copied", apply=copy_magnitudes, fits=only("dora")
    ),
    "head clipped": Fault(
        rule="values-float16-clipped",
        apply=whole("lm_head.weight", lambda t: (np.sign(t) * 65504).astype("float16")),
        fits=only("saved_head"),
    ),
    "clipped": Fault(
        rule="values-float16-clipped", apply=clip_to_float16, fits=only("plain", "dora")
    ),
    "all exploded": Fault(
        rule="values-explosion", apply=scale_all("lora_B.weight", 1e4), fits=linear
    ),
    "one exploded": Fault(
        rule="values-explosion", apply=scale(one_b, 1e4), places=True, fits=linear
    ),
    "beyond float32": Fault(
        rule="values-explosion", apply=scale(one_b, 1e30), places=True, fits=linear
    ),
    "magnitude zero": Fault(
        rule="values-magnitude",
        apply=scale_all("magnitude_vector", 0),
        fits=only("dora"),
    ),
    "half the magnitudes zero": Fault(
        rule="values-magnitude",
        apply=whole("magnitude_vector", end_in_zeros(0.5)),
        fits=only("dora"),
    ),
    "magnitudes negative": Fault(
        rule="values-magnitude",
        apply=scale_all("magnitude_vector", -1),
        fits=only("dora"),
    ),
    "one magnitude negative": Fault(
        rule="values-magnitude",
        apply=whole("magnitude_vector", with_one(-0.5)),
        fits=only("dora"),
    ),
    "one magnitude huge": Fault(
        rule="values-magnitude",
        apply=whole("magnitude_vector", with_one(1e6)),
        fits=only("dora"),
    ),
    "magnitudes huge": Fault(
        rule="values-magnitude",
        apply=scale_all("magnitude_vector", 1e4),
        fits=only("dora"),
    ),
}  # fmt: skip

WHOLE = {
    "head": ("lm_head.weight", "saved_head"),
    "norm": ("model.norm.weight", "saved_head"),
    "token rows": ("trainable_tokens_delta", "trained_tokens"),
    "table": ("base_layer.weight", "embeddings"),
}
"""Tensors that replace the base's: the end of their names, and the variant that has them."""

for _name, (_end, _variant) in WHOLE.items():
    VALUES |= {
        f"{_name} zero": Fault(
            rule="values-zero-weight", apply=scale_all(_end, 0), fits=only(_variant)
        ),
        f"{_name} almost zero": Fault(
            rule="values-zero-weight", apply=scale_all(_end, 1e-30), fits=only(_variant)
        ),
        f"{_name} huge": Fault(
            rule="values-weight-size", apply=scale_all(_end, -1e6), fits=only(_variant)
        ),
        f"{_name} with one huge number": Fault(
            rule="values-weight-size", apply=whole(_end, with_one(1e5)), fits=only(_variant)
        ),
    }
VALUES["bias huge"] = Fault(
    rule="values-weight-size", apply=scale_all("lora_B.bias", 1e6), fits=only("lora_bias")
)
