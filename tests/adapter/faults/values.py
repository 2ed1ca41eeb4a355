"""Numbers that no training leaves behind."""

import numpy as np

from tests.adapter.faults.ways import (
    Fault,
    clip_to_float16,
    copy_a_b,
    linear,
    one_a,
    one_b,
    only,
    put,
    scale,
    scale_all,
    shape,
)

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
    "filled with ones": Fault(
        rule="values-constant", apply=shape(np.ones_like), places=True, fits=linear
    ),
    "a layer written twice": Fault(
        rule="values-copied", apply=copy_a_b, fits=lambda v: linear(v) and v != "one_layer"
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
        rule="values-magnitude", apply=scale_all("magnitude_vector", 0), fits=only("dora")
    ),
}  # fmt: skip
