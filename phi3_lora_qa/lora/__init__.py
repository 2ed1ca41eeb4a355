"""Reference mathematics of LoRA in float64, with rounding-error bounds.

Notation follows Hu et al. 2021 (arXiv 2106.09685, section 4.1): W (out, in), A (r, in), B (out, r),
scaling s, delta = s · B·A, y = W·x + s · B·(A·x). The package uses numpy only, so it shares no code
with the implementations that it checks.
"""

from phi3_lora_qa.lora.combination import (
    LowRank,
    Mixture,
    concatenate,
    factorize,
    mix,
    mix_factors,
    truncate,
    weighted_delta,
)
from phi3_lora_qa.lora.combination_bounds import (
    concatenate_bound,
    fuse_bound,
    mix_bound,
    weighted_delta_bound,
)
from phi3_lora_qa.lora.factors import Array, Factors, delta, merged_weight, output, storage_layout
from phi3_lora_qa.lora.float_formats import FORMATS, Format, format_of, gamma, ratios, round_to
from phi3_lora_qa.lora.forward_bounds import (
    dense_forward_bound,
    forward_bound,
    merged_forward_bound,
    sum_forward_bound,
)
from phi3_lora_qa.lora.fused import (
    Block,
    Layout,
    fuse,
    gate_up_layout,
    qkv_layout,
    row_slices,
    split,
    trim,
)
from phi3_lora_qa.lora.gradients import FactorArrays, factor_gradients, gradient_bound
from phi3_lora_qa.lora.interval_arithmetic import Approximation, Arithmetic, arithmetic_of, exact
from phi3_lora_qa.lora.layouts import (
    as_kernel,
    block_diagonal,
    dense_kernel,
    diagonal_blocks,
    embedding_delta,
    loralib_conv_delta,
    merged_linear,
    patches,
    peft_conv,
)
from phi3_lora_qa.lora.scaling import (
    ModuleScaling,
    ScalingConfig,
    alpha_for,
    module_scaling,
)
from phi3_lora_qa.lora.spectrum import (
    effective_rank,
    frobenius_norm,
    singular_values,
    spectral_norm,
    stable_rank,
)
from phi3_lora_qa.lora.weight_bounds import (
    delta_bound,
    extraction_bound,
    factorization_bound,
    merge_bound,
    merge_cycles_bound,
    unmerge_bound,
)
from phi3_lora_qa.lora_scaling import scaling_of

__all__ = [
    "FORMATS",
    "Approximation",
    "Arithmetic",
    "Array",
    "Block",
    "FactorArrays",
    "Factors",
    "Format",
    "Layout",
    "LowRank",
    "Mixture",
    "ModuleScaling",
    "ScalingConfig",
    "alpha_for",
    "arithmetic_of",
    "as_kernel",
    "block_diagonal",
    "concatenate",
    "concatenate_bound",
    "delta",
    "delta_bound",
    "dense_forward_bound",
    "dense_kernel",
    "diagonal_blocks",
    "effective_rank",
    "embedding_delta",
    "exact",
    "extraction_bound",
    "factor_gradients",
    "factorization_bound",
    "factorize",
    "format_of",
    "forward_bound",
    "frobenius_norm",
    "fuse",
    "fuse_bound",
    "gamma",
    "gate_up_layout",
    "gradient_bound",
    "loralib_conv_delta",
    "merge_bound",
    "merge_cycles_bound",
    "merged_forward_bound",
    "merged_linear",
    "merged_weight",
    "mix",
    "mix_bound",
    "mix_factors",
    "module_scaling",
    "output",
    "patches",
    "peft_conv",
    "qkv_layout",
    "ratios",
    "round_to",
    "row_slices",
    "scaling_of",
    "singular_values",
    "spectral_norm",
    "split",
    "stable_rank",
    "storage_layout",
    "sum_forward_bound",
    "trim",
    "truncate",
    "unmerge_bound",
    "weighted_delta",
    "weighted_delta_bound",
]
