"""Every kind of layer as one linear layer: what its own A and B are as `Factors`.

So delta, norms, composition and bounds are written once. An embedding is the linear layer of its
transposed table, with one-hot inputs. A convolution is the linear layer of its flattened kernel,
with patches for inputs. loralib's MergedLinear is a linear layer whose B has blocks of zeros.
"""

import math
from collections.abc import Sequence

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, delta


def block_diagonal(stacked: Array, blocks: int) -> Array:
    """Return the block-diagonal matrix (n, blocks · m) of blocks stacked as (n, m).

    Raises:
        InputError: The rows are not so many equal blocks.
    """
    _require_blocks(stacked.shape[:1], blocks)
    rows, width = stacked.shape[0] // blocks, stacked.shape[1]
    dense = np.zeros((stacked.shape[0], blocks * width))
    for block in range(blocks):
        place = slice(block * rows, (block + 1) * rows)
        dense[place, block * width : (block + 1) * width] = stacked[place]
    return dense


def diagonal_blocks(dense: Array, blocks: int) -> Array:
    """Return the blocks of a block-diagonal matrix, stacked: what `block_diagonal` was given.

    Raises:
        InputError: The sides are not so many equal blocks.
    """
    _require_blocks(dense.shape, blocks)
    rows, width = (side // blocks for side in dense.shape)
    each = np.arange(blocks)
    return dense.reshape(blocks, rows, blocks, width)[each, :, each].reshape(-1, width)


def embedding_delta(factors: Factors) -> Array:
    """Return the delta of an embedding's table, float64 (num, dim).

    Both PEFT (lora_embedding_A, lora_embedding_B) and loralib keep A (r, num) and B (dim, r), and
    add (s · B·A)ᵀ to the table. As `Factors` these are the linear layer with W = tableᵀ.
    """
    return delta(factors).T


def merged_linear(A: Array, B: Array, scaling: float, enable_lora: Sequence[bool]) -> Factors:
    """Return loralib's MergedLinear as one linear layer.

    With n blocks of out/n rows, k of them enabled, the i-th enabled block has the delta
    s · B_i·A_i, where A_i are rows i·r to (i+1)·r of A and B_i the i-th out/n rows of B
    (``merge_AB``: a convolution with k groups). Rows of disabled blocks get zero.

    Args:
        A: lora_A, float64 (r·k, in).
        B: lora_B, float64 (out/n·k, r).
        scaling: s = alpha / r, with the r of one block.
        enable_lora: One flag for each of the n blocks.

    Returns:
        Factors of rank r·k, with B dense, float64 (out, r·k).

    Raises:
        InputError: No block is enabled, or the shapes do not belong to this mask.
    """
    enabled = np.flatnonzero(enable_lora)
    k = len(enabled)
    if k == 0:
        raise InputError("enable_lora enables no block, so there are no factors; enable one")
    if A.shape[0] != B.shape[1] * k or B.shape[0] % k:
        raise InputError(
            f"A {A.shape} and B {B.shape} are no factors of {k} blocks; for this enable_lora give "
            "A (r·k, in) and B (out/n·k, r)"
        )
    rows = B.shape[0] // k
    dense = np.zeros((len(enable_lora), rows, A.shape[0]))
    dense[enabled] = block_diagonal(B, k).reshape(k, rows, -1)
    return Factors(A=A, B=dense.reshape(-1, A.shape[0]), scaling=scaling)


def peft_conv(A: Array, B: Array, scaling: float, *, groups: int = 1) -> Factors:
    """Return PEFT's factors of Conv1d, 2d or 3d as one linear layer on patches.

    lora_A is a convolution of the base's kernel size to r channels (never grouped, never dilated);
    lora_B is one of kernel size 1 with the base's groups: output channels of group g read the g-th
    r/groups of the r channels only.

    Args:
        A: lora_A's weight, float64 (r, in, *kernel).
        B: lora_B's weight, float64 (out, r/groups, *ones).
        scaling: s.
        groups: The base layer's groups.

    Returns:
        Factors with A (r, in·kernel) and B (out, r); see `as_kernel` for the kernel's shape.

    Raises:
        InputError: The shapes do not fit each other.
    """
    flat = B.reshape(B.shape[0], B.shape[1])
    if A.shape[0] != groups * B.shape[1] or B.shape[0] % groups:
        raise InputError(
            f"A {A.shape} and B {B.shape} do not fit {groups} groups; give A (r, in, *kernel) and "
            "B (out, r/groups, *ones) with groups dividing r and out"
        )
    return Factors(A=A.reshape(A.shape[0], -1), B=block_diagonal(flat, groups), scaling=scaling)


def as_kernel(matrix: Array, kernel: Sequence[int]) -> Array:
    """Return a matrix (out, in·kernel) in a convolution's shape (out, in, *kernel)."""
    return matrix.reshape(matrix.shape[0], -1, *kernel)


def dense_kernel(weight: Array, groups: int) -> Array:
    """Return a grouped kernel (out, in/groups, *kernel) as the same map without groups.

    The result, float64 (out, in·kernel), has zeros where a channel belongs to another group, and is
    the W that goes with `peft_conv` and `patches`.
    """
    return block_diagonal(weight.reshape(weight.shape[0], -1), groups)


def loralib_conv_delta(A: Array, B: Array, scaling: float, shape: Sequence[int]) -> Array:
    """Return the delta of loralib's convolutions: s · (B·A) read row by row in the kernel's shape.

    With kernel size k, A is (r·k, in·k) and B (out/groups·k, r·k), so B·A has k² · in · out/groups
    entries: as many as a Conv2d's kernel, and as a Conv1d's for k = 1 only. Its rank may reach r·k.

    Args:
        A: lora_A, float64 (r·k, in·k).
        B: lora_B, float64 (out/groups·k, r·k).
        scaling: s = alpha / r.
        shape: The base kernel's shape (out, in/groups, *kernel).

    Raises:
        InputError: The product does not have as many entries as the kernel, so loralib itself fails
            on this layer (Conv1d and Conv3d with k > 1).
    """
    if B.shape[0] * A.shape[1] != math.prod(shape):
        raise InputError(
            f"B·A has {B.shape[0]} x {A.shape[1]} entries and the kernel {tuple(shape)} has "
            f"{math.prod(shape)}: loralib cannot adapt this convolution; use PEFT's, or a Conv2d"
        )
    return delta(Factors(A=A, B=B, scaling=scaling)).reshape(shape)


def patches(
    x: Array, kernel: Sequence[int], *, stride: Sequence[int] = (), padding: Sequence[int] = ()
) -> Array:
    """Return what a convolution multiplies its flattened kernel with, float64 (places, in·kernel).

    Args:
        x: One input, float64 (in, *size).
        kernel: The kernel's size in each dimension.
        stride: In each dimension; 1 if left out.
        padding: Zeros on both sides of each dimension; none if left out.

    Returns:
        One row for each place of the output, in row-major order.

    Raises:
        InputError: Kernel, stride and padding are not for the dimensions of x, or the kernel is
            larger than the padded input.
    """
    dims = x.ndim - 1
    if {len(kernel), len(stride) or dims, len(padding) or dims} != {dims} or any(
        side > size + 2 * p
        for side, size, p in zip(kernel, x.shape[1:], padding or [0] * dims, strict=True)
    ):
        raise InputError(
            f"an input {x.shape} has no places for a kernel {tuple(kernel)} with stride "
            f"{tuple(stride)} and padding {tuple(padding)}; give one number for each dimension"
        )
    around = [(0, 0), *((p, p) for p in padding or [0] * len(kernel))]
    axes = tuple(range(1, 1 + len(kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, around), tuple(kernel), axis=axes)
    steps = tuple(slice(None, None, step) for step in stride or [1] * len(kernel))
    chosen = np.moveaxis(windows[(slice(None), *steps)], 0, len(kernel))
    return chosen.reshape(-1, x.shape[0] * math.prod(kernel)).copy()


def _require_blocks(sides: Sequence[int], blocks: int) -> None:
    if blocks < 1 or any(side % blocks for side in sides):
        raise InputError(
            f"sides of {', '.join(map(str, sides))} are not {blocks} equal blocks; "
            "give a number of blocks that divides them"
        )
