"""Hypothesis strategies for LoRA: factors, layers, configs, whole adapters and batches.

They shrink to the smallest shapes, rank 1, ones and float32. Every strategy makes only a few
choices, even for large arrays, so drawing is fast.
"""

from phi3_lora_qa.strategies.adapter_state_dicts import MODERATE_FACTOR_KINDS, adapter_state_dicts
from phi3_lora_qa.strategies.arrays import (
    DTYPES,
    FILLS,
    Fill,
    alphas,
    arrays,
    dtypes,
    ranks,
    rounded,
    shapes,
)
from phi3_lora_qa.strategies.case_types import (
    ConvCase,
    EmbeddingCase,
    LayerCase,
    MergedLinearCase,
)
from phi3_lora_qa.strategies.factor_pairs import FACTOR_KINDS, FactorKind, lora_factors
from phi3_lora_qa.strategies.layer_cases import (
    conv_cases,
    embedding_cases,
    linear_cases,
    merged_linear_cases,
)
from phi3_lora_qa.strategies.lora_configs import VARIANTS, Variant, lora_configs
from phi3_lora_qa.strategies.phi3_inputs import Batch, Padding, batches, phi3_configs

__all__ = [
    "DTYPES",
    "FACTOR_KINDS",
    "FILLS",
    "MODERATE_FACTOR_KINDS",
    "VARIANTS",
    "Batch",
    "ConvCase",
    "EmbeddingCase",
    "FactorKind",
    "Fill",
    "LayerCase",
    "MergedLinearCase",
    "Padding",
    "Variant",
    "adapter_state_dicts",
    "alphas",
    "arrays",
    "batches",
    "conv_cases",
    "dtypes",
    "embedding_cases",
    "linear_cases",
    "lora_configs",
    "lora_factors",
    "merged_linear_cases",
    "phi3_configs",
    "ranks",
    "rounded",
    "shapes",
]
