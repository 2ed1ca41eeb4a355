"""LoRA's mathematics in plain float64, from the factors, with rounding-error bounds.

Notation as in Hu et al. 2021 (arXiv 2106.09685, section 4.1): W (out, in), A (r, in), B (out, r),
scaling s, delta = s · B·A, y = W·x + s · B·(A·x). numpy only, so that nothing here shares code with
what it checks.
"""

from phi3_lora_qa.lora.factors import Array, Factors, delta, merged_weight, output, stored
from phi3_lora_qa.lora.fused import (
    FOLDING_ERROR,
    Block,
    Layout,
    fuse,
    gate_up_layout,
    qkv_layout,
    row_slices,
    split,
    trim,
)
from phi3_lora_qa.lora.layouts import (
    as_kernel,
    block_diagonal,
    dense_kernel,
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
    scaling_of,
)
from phi3_lora_qa.lora.spectrum import (
    effective_rank,
    frobenius,
    singular_values,
    spectral_norm,
    stable_rank,
)

__all__ = [
    "FOLDING_ERROR",
    "Array",
    "Block",
    "Factors",
    "Layout",
    "ModuleScaling",
    "ScalingConfig",
    "alpha_for",
    "as_kernel",
    "block_diagonal",
    "delta",
    "dense_kernel",
    "effective_rank",
    "embedding_delta",
    "frobenius",
    "fuse",
    "gate_up_layout",
    "loralib_conv_delta",
    "merged_linear",
    "merged_weight",
    "module_scaling",
    "output",
    "patches",
    "peft_conv",
    "qkv_layout",
    "row_slices",
    "scaling_of",
    "singular_values",
    "spectral_norm",
    "split",
    "stable_rank",
    "stored",
    "trim",
]
