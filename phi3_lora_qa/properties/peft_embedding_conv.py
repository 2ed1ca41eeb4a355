"""PEFT's LoRA on embeddings and convolutions, as linear layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from phi3_lora_qa.lora import (
    Arithmetic,
    Array,
    Factors,
    block_diagonal,
    dense_kernel,
    diagonal_blocks,
    patches,
    peft_conv,
)
from phi3_lora_qa.models.tensor_conversion import to_tensor
from phi3_lora_qa.properties.peft_layers import PeftLinear
from phi3_lora_qa.strategies import LayerCase

if TYPE_CHECKING:
    import torch
    from hypothesis import strategies as st

    from phi3_lora_qa.strategies import ConvCase

_PLACES = 4
"""The number of a convolution's output positions that become the rows of a batch."""

_GROUPED_CAT = (
    "add_weighted_adapter appends the ranks of one adapter to those of the other, although each "
    "group reads only its own share of the ranks; activate both adapters instead"
)
_CONV_SVD = (
    'add_weighted_adapter with "svd" supports only Conv2d, and not kernel size 1 with one channel: '
    'it returns factors of the wrong shape or raises an error; combine such adapters with "cat"'
)


class PeftEmbedding(PeftLinear):
    """`torch.nn.Embedding`: one-hot inputs select columns of the transposed table."""

    accepts_any_input = False
    unsupported = frozenset({"build_with_dropout"})  # PEFT accepts lora_dropout and ignores it

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return embeddings as linear layers."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases().map(one_hot_case)

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return the table's dtype: torch sums the gradients of a token in it."""
        return Arithmetic(dtype=case.dtype, accumulate=case.dtype)

    def base(self, case: "LayerCase") -> "torch.nn.Module":
        """Return an embedding of ``in`` tokens with ``out`` dimensions."""
        import torch

        out_features, in_features = case.weight.shape
        return torch.nn.Embedding(in_features, out_features, dtype=getattr(torch, case.dtype))

    def adapter_parameter(self, part: str, adapter: str) -> "torch.Tensor":
        """Return a parameter; the factors are called lora_embedding_A and _B."""
        if part in ("A", "B"):
            found: torch.Tensor = getattr(self.layer, f"lora_embedding_{part}")[adapter]
            return found
        return super().adapter_parameter(part, adapter)

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the table."""
        return values.T if part == "weight" else super().to_parameter_layout(part, values)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the table back."""
        return values.T if part == "weight" else super().from_parameter_layout(part, values)

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return the tokens that the one-hot rows select."""
        import torch

        return torch.from_numpy(x.argmax(axis=1))


class PeftConv2d(PeftLinear):
    """`torch.nn.Conv2d` on an input as large as its kernel, which gives one output position."""

    known_failures: ClassVar[Mapping[str, str]] = {
        **PeftLinear.known_failures,
        "svd_combination_is_optimal_for_its_rank": _CONV_SVD,
    }
    dims: ClassVar[int] = 2

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers; ``in`` is split into channels and kernel."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases()

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return the kernel's dtype: torch sums the gradients of a float16 kernel in float16."""
        return Arithmetic(dtype=case.dtype, accumulate=case.dtype)

    def base(self, case: "LayerCase") -> "torch.nn.Module":
        """Return the convolution."""
        import torch

        kind: Any = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[self.dims]
        channels, *kernel = _split_off_kernel(case.weight.shape[1], self.dims)
        found: torch.nn.Module = kind(
            channels,
            len(case.weight),
            tuple(kernel),
            bias=case.base_bias is not None,
            dtype=getattr(torch, case.dtype),
        )
        return found

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return the inputs with channels and spatial dimensions."""
        shape = _split_off_kernel(x.shape[1], self.dims)
        return to_tensor(x.reshape(len(x), *shape), self.case.dtype)


class PeftDoraConv2d(PeftConv2d):
    """`torch.nn.Conv2d` with DoRA, whose magnitudes are the norms of whole kernels."""

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers with magnitudes; ``in`` is split into channels and kernel."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases(magnitude=True)


class PeftConv1d(PeftConv2d):
    """`torch.nn.Conv1d`."""

    dims = 1


class PeftConv3d(PeftConv2d):
    """`torch.nn.Conv3d` without kernels (1, 1, k), which PEFT 0.21.2 treats as 1 x 1 of a Conv2d.

    Such a layer cannot be merged and has no delta; its forward pass works.
    """

    dims = 3

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers whose kernel is not (1, 1, k)."""
        return (
            super()
            .cases()
            .filter(lambda case: _split_off_kernel(case.x.shape[1], cls.dims)[1:3] != (1, 1))
        )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GroupedCase(LayerCase):
    """A convolution with groups: its weight and B have blocks of zeros.

    Attributes:
        groups: The number of groups.
        kernel: The kernel's sides.
    """

    groups: int
    kernel: tuple[int, ...]


class PeftGroupedConv(PeftConv2d):
    """Conv1d, 2d and 3d with groups, which PEFT adapts and refuses to merge."""

    unsupported = frozenset({"delta", "merge", "unmerge"})
    known_failures: ClassVar[Mapping[str, str]] = {
        **PeftConv2d.known_failures,
        "cat_combination_equals_the_weighted_sum": _GROUPED_CAT,
    }

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return convolutions of 1 to 3 groups, at the first positions of their input."""
        from hypothesis import strategies as st

        from phi3_lora_qa.strategies import conv_cases

        drawn = (conv_cases(dims=dims, groups=True) for dims in (1, 2, 3))
        return st.one_of(*drawn).map(_as_linear_case)

    @classmethod
    def additional_factors(
        cls, case: Any, *, rank: int | None = None, **choices: Any
    ) -> "st.SearchStrategy[Factors]":
        """Return factors for each group; A is rolled so that no two groups have the same rows."""
        each = None if rank is None else rank // case.groups
        found = super().additional_factors(case, rank=each, **choices)
        return found.map(
            lambda f: replace(
                f,
                A=np.vstack([np.roll(f.A, group, axis=1) for group in range(case.groups)]),
                B=block_diagonal(f.B, case.groups),
            )
        )

    @classmethod
    def b_parameter_mask(cls, case: Any) -> Array:
        """Return 1.0 for the blocks, which alone are parameters."""
        return block_diagonal(np.ones((len(case.weight), case.factors.rank // case.groups)),
                              case.groups)  # fmt: skip

    def base(self, case: Any) -> "torch.nn.Module":
        """Return the convolution."""
        import torch

        kinds: Any = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
        found: torch.nn.Module = kinds[len(case.kernel) - 1](
            case.x.shape[1] // math.prod(case.kernel),
            len(case.weight),
            case.kernel,
            groups=case.groups,
            bias=case.base_bias is not None,
            dtype=getattr(torch, case.dtype),
        )
        return found

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Take the blocks out of the dense weight and B."""
        case: Any = self.case
        blocks = diagonal_blocks(values, case.groups) if part in ("weight", "B") else values
        return super().to_parameter_layout(part, blocks)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Place the blocks in the dense weight and B."""
        case: Any = self.case
        if part in ("weight", "B"):
            return block_diagonal(values.reshape(len(values), -1), case.groups)
        return super().from_parameter_layout(part, values)

    def _to_adapter_layout(self, part: str, values: Array) -> Array:
        case: Any = self.case
        blocks = diagonal_blocks(values, case.groups) if part == "B" else values
        return super()._to_adapter_layout(part, blocks)

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return the inputs with channels and spatial dimensions."""
        case: Any = self.case
        return to_tensor(x.reshape(len(x), -1, *case.kernel), case.dtype)


def one_hot_case(case: "LayerCase") -> "LayerCase":
    """Return a linear case as that of an embedding: its inputs are one-hot rows."""
    columns = np.abs(case.x).argmax(axis=1)
    return replace(case, x=np.eye(case.x.shape[1])[columns], base_bias=None)


def _as_linear_case(case: "ConvCase") -> GroupedCase:
    """Return a convolution as a linear layer on the patches under its kernel."""
    kernel = case.weight.shape[2:]
    step, around = (case.stride,) * len(kernel), (case.padding,) * len(kernel)
    return GroupedCase(
        dtype=case.dtype,
        weight=dense_kernel(case.weight, case.groups),
        base_bias=case.base_bias,
        factors=peft_conv(case.A, case.B, case.scaling, groups=case.groups),
        alpha=case.alpha,
        rslora=case.rslora,
        x=patches(case.x[0], kernel, stride=step, padding=around)[:_PLACES],
        groups=case.groups,
        kernel=kernel,
    )


def _split_off_kernel(in_features: int, dims: int) -> tuple[int, ...]:
    """Split a number into channels and a kernel with small sides."""
    kernel = []
    for _ in range(dims):
        side = next((k for k in (3, 2) if in_features % k == 0), 1)
        kernel.append(side)
        in_features //= side
    return (in_features, *kernel)
