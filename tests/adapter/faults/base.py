"""Disagreement with the base."""

from tests.adapter.faults.ways import Fault, only, scale_all, widen

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
    "delta next to nothing": Fault(
        rule="base-delta-negligible",
        apply=scale_all("lora_B.weight", 1e-5),
        fits=only("plain", "all-linear", "velora"),
        base_only=True,
    ),
    "delta dwarfs weight": Fault(
        rule="base-delta-size",
        apply=scale_all("lora_B.weight", 500),
        fits=only("plain", "dora", "all-linear"),
        base_only=True,
    ),
}  # fmt: skip
