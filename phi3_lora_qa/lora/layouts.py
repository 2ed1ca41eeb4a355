"""Every kind of LoRA layer as one linear layer: its own A and B as `Factors`.

Delta, norms, combinations and bounds are thus written once. An embedding is the linear layer of its
transposed table, with one-hot inputs. A convolution is the linear layer of its flattened kernel,
with patches as inputs. loralib's MergedLinear is a linear layer whose B has blocks of zeros.
"""

import math
from collections.abc import Sequence

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, delta


def block_diagonal(stacked: Array, blocks: int) -> Array:
    """Return the block-diagonal matrix of stacked blocks.

    Args:
        stacked: The blocks, one below the other, float64 (n, m); each has n / blocks rows.
        blocks: The number of blocks.

    Returns:
        float64 (n, blocks · m), zero outside the blocks.

    Raises:
        InputError: The number of blocks does not divide n.

    Example:
        >>> import numpy as np
        >>> block_diagonal(np.array([[1.0], [2.0]]), 2).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    _require_blocks(stacked.shape[:1], blocks)
    rows, width = stacked.shape[0] // blocks, stacked.shape[1]
    dense = np.zeros((stacked.shape[0], blocks * width))
    for block in range(blocks):
        place = slice(block * rows, (block + 1) * rows)
        dense[place, block * width : (block + 1) * width] = stacked[place]
    return dense


def diagonal_blocks(dense: Array, blocks: int) -> Array:
    """Return the blocks of a block-diagonal matrix, stacked: the inverse of `block_diagonal`.

    Args:
        dense: float64 (n, blocks · m).
        blocks: The number of blocks.

    Returns:
        float64 (n, m).

    Raises:
        InputError: The number of blocks does not divide both sides.

    Example:
        >>> import numpy as np
        >>> diagonal_blocks(np.diag([1.0, 2.0]), 2).tolist()
        [[1.0], [2.0]]
    """
    _require_blocks(dense.shape, blocks)
    rows, width = (side // blocks for side in dense.shape)
    each = np.arange(blocks)
    return dense.reshape(blocks, rows, blocks, width)[each, :, each].reshape(-1, width)


def embedding_delta(factors: Factors) -> Array:
    """Return the delta of an embedding table, (s · B·A)ᵀ.

    Both PEFT (lora_embedding_A, lora_embedding_B) and loralib store A (r, num) and B (dim, r), and
    add (s · B·A)ᵀ to the table. As `Factors` these are the linear layer with W = tableᵀ.

    Args:
        factors: A (r, num) and B (dim, r).

    Returns:
        float64 (num, dim).

    Raises:
        InputError: As `phi3_lora_qa.lora.delta`.

    Example:
        >>> import numpy as np
        >>> embedding_delta(Factors(A=np.ones((1, 5)), B=np.ones((2, 1)), scaling=1.0)).shape
        (5, 2)
    """
    return delta(factors).T


def merged_linear(A: Array, B: Array, scaling: float, enable_lora: Sequence[bool]) -> Factors:
    """Return loralib's MergedLinear as one linear layer.

    With n blocks of out/n rows, k of them enabled, the i-th enabled block has the delta
    s · B_i·A_i, where A_i are rows i·r to (i+1)·r of A and B_i the i-th out/n rows of B
    (``merge_AB``: a convolution with k groups). Rows of disabled blocks are zero.

    Args:
        A: lora_A, float64 (r·k, in).
        B: lora_B, float64 (out/n·k, r).
        scaling: s = alpha / r, with the r of one block.
        enable_lora: One flag for each of the n blocks.

    Returns:
        Factors of rank r·k, with a dense B, float64 (out, r·k).

    Raises:
        InputError: No block is enabled, or the shapes do not fit the mask.

    Example:
        >>> import numpy as np
        >>> merged_linear(np.ones((1, 2)), np.ones((3, 1)), 0.5, [False, True]).B.ravel().tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    enabled = np.flatnonzero(enable_lora)
    k = len(enabled)
    if k == 0:
        raise InputError("enable_lora enables no block; enable at least one")
    if A.shape[0] != B.shape[1] * k or B.shape[0] % k:
        raise InputError(
            f"the factors do not fit {k} enabled blocks: A {A.shape} and B {B.shape}; for this "
            "enable_lora pass A (r·k, in) and B (out/n·k, r)"
        )
    rows = B.shape[0] // k
    dense = np.zeros((len(enable_lora), rows, A.shape[0]))
    dense[enabled] = block_diagonal(B, k).reshape(k, rows, -1)
    return Factors(A=A, B=dense.reshape(-1, A.shape[0]), scaling=scaling)


def peft_conv(A: Array, B: Array, scaling: float, *, groups: int = 1) -> Factors:
    """Return PEFT's factors of Conv1d, Conv2d or Conv3d as one linear layer on patches.

    lora_A is a convolution of the base's kernel size to r channels (never grouped, never dilated).
    lora_B is one of kernel size 1 with the base's groups: output channels of group g read only the
    g-th r/groups of the r channels.

    Args:
        A: lora_A's weight, float64 (r, in, *kernel).
        B: lora_B's weight, float64 (out, r/groups, *ones).
        scaling: s.
        groups: The base layer's groups.

    Returns:
        Factors with A (r, in·kernel) and B (out, r); see `as_kernel` for the kernel's shape.

    Raises:
        InputError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> peft_conv(np.ones((2, 3, 5)), np.ones((4, 2, 1)), 1.0).A.shape
        (2, 15)
    """
    flat = B.reshape(B.shape[0], B.shape[1])
    if A.shape[0] != groups * B.shape[1] or B.shape[0] % groups:
        raise InputError(
            f"the factors do not fit {groups} groups: A {A.shape} and B {B.shape}; pass "
            "A (r, in, *kernel) and B (out, r/groups, *ones) with groups dividing r and out"
        )
    return Factors(A=A.reshape(A.shape[0], -1), B=block_diagonal(flat, groups), scaling=scaling)


def as_kernel(matrix: Array, kernel: Sequence[int]) -> Array:
    """Reshape a matrix (out, in·kernel) to the kernel of a convolution.

    Args:
        matrix: float64 (out, in·kernel).
        kernel: The kernel's size in each dimension.

    Returns:
        float64 (out, in, *kernel); a view where possible.

    Example:
        >>> import numpy as np
        >>> as_kernel(np.zeros((2, 12)), (2, 2)).shape
        (2, 3, 2, 2)
    """
    return matrix.reshape(matrix.shape[0], -1, *kernel)


def dense_kernel(weight: Array, groups: int) -> Array:
    """Return a grouped kernel as the same linear map without groups.

    The result is the W that belongs to `peft_conv` and `patches`.

    Args:
        weight: The kernel, float64 (out, in/groups, *kernel).
        groups: The number of groups.

    Returns:
        float64 (out, in·kernel), zero where a channel belongs to another group.

    Raises:
        InputError: The number of groups does not divide out.

    Example:
        >>> import numpy as np
        >>> dense_kernel(np.ones((2, 1, 1)), groups=2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return block_diagonal(weight.reshape(weight.shape[0], -1), groups)


def loralib_conv_delta(A: Array, B: Array, scaling: float, shape: Sequence[int]) -> Array:
    """Return the delta of loralib's convolutions: s · (B·A), read row by row in the kernel's shape.

    With kernel size k, A is (r·k, in·k) and B (out/groups·k, r·k), so B·A has k² · in · out/groups
    entries. That is as many as the kernel of a Conv2d has, and of a Conv1d only for k = 1. The rank
    of the delta may be as high as r·k.

    Args:
        A: lora_A, float64 (r·k, in·k).
        B: lora_B, float64 (out/groups·k, r·k).
        scaling: s = alpha / r.
        shape: The base kernel's shape (out, in/groups, *kernel).

    Returns:
        float64, of this shape.

    Raises:
        InputError: The product does not have as many entries as the kernel, so loralib itself fails
            on this layer (Conv1d and Conv3d with k > 1).

    Example:
        >>> import numpy as np
        >>> loralib_conv_delta(np.ones((2, 6)), np.ones((8, 2)), 0.5, (4, 3, 2, 2)).shape
        (4, 3, 2, 2)
    """
    if B.shape[0] * A.shape[1] != math.prod(shape):
        raise InputError(
            f"loralib cannot adapt this convolution: B·A has {B.shape[0]} x {A.shape[1]} entries, "
            f"the kernel {tuple(shape)} has {math.prod(shape)}; use PEFT, or a Conv2d"
        )
    return delta(Factors(A=A, B=B, scaling=scaling)).reshape(shape)


def patches(
    x: Array, kernel: Sequence[int], *, stride: Sequence[int] = (), padding: Sequence[int] = ()
) -> Array:
    """Return the patches that a convolution multiplies with its flattened kernel.

    Args:
        x: One input, float64 (in, *size).
        kernel: The kernel's size in each dimension.
        stride: In each dimension; 1 if omitted.
        padding: Zeros on both sides of each dimension; none if omitted.

    Returns:
        float64 (positions, in·kernel): one row for each output position, in row-major order.

    Raises:
        InputError: Kernel, stride or padding do not have the dimensions of x, or the kernel is
            larger than the padded input.

    Example:
        >>> import numpy as np
        >>> patches(np.arange(4.0)[None], (2,)).tolist()
        [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    dims = x.ndim - 1
    if {len(kernel), len(stride) or dims, len(padding) or dims} != {dims} or any(
        side > size + 2 * p
        for side, size, p in zip(kernel, x.shape[1:], padding or [0] * dims, strict=True)
    ):
        raise InputError(
            f"kernel, stride or padding do not fit the input {x.shape}: kernel {tuple(kernel)}, "
            f"stride {tuple(stride)}, padding {tuple(padding)}; pass one number for each dimension"
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
            f"cannot divide sides of {', '.join(map(str, sides))} into {blocks} equal blocks; "
            "pass a number of blocks that divides them"
        )
