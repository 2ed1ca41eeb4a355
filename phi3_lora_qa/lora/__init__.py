"""LoRA's mathematics in plain float64, from the factors, with rounding-error bounds.

Notation as in Hu et al. 2021 (arXiv 2106.09685, section 4.1): W (out, in), A (r, in), B (out, r),
scaling s, delta = s · B·A, y = W·x + s · B·(A·x).
"""
