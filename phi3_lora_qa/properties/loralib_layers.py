"""loralib's layers, built and used as its README describes: train() unmerges, eval() merges."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from phi3_lora_qa.lora import (
    Arithmetic,
    Array,
    Factors,
    block_diagonal,
    diagonal_blocks,
    merged_linear,
    scaling_of,
)
from phi3_lora_qa.properties.layer import Gradients, Layer
from phi3_lora_qa.properties.torch_layer import TorchLayer
from phi3_lora_qa.strategies import FactorKind, LayerCase

LORALIB_FACTOR_KINDS: tuple[FactorKind, ...] = (
    "ordinary",
    "fresh",
    "degenerate",
    "ill_conditioned",
    "tiny",
)

if TYPE_CHECKING:
    import torch
    from hypothesis import strategies as st


class LoralibLinear(TorchLayer):
    """loralib's Linear."""

    fan_in_fan_out: ClassVar[bool] = False

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers without rsLoRA, which loralib does not support."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases(kinds=LORALIB_FACTOR_KINDS, rslora=False)

    def make_module(self, case: LayerCase, dropout: float) -> "torch.nn.Module":
        """Return the layer, its base frozen by mark_only_lora_as_trainable."""
        import loralib

        found = self.layer(case, dropout).to(_dtype(case))
        loralib.mark_only_lora_as_trainable(found)
        return found

    def layer(self, case: LayerCase, dropout: float) -> "torch.nn.Module":
        """Return loralib's layer."""
        import loralib

        out_features, in_features = case.weight.shape
        found: torch.nn.Module = loralib.Linear(
            in_features,
            out_features,
            r=case.factors.rank,
            lora_alpha=case.alpha,
            lora_dropout=dropout,
            fan_in_fan_out=self.fan_in_fan_out,
            bias=case.base_bias is not None,
        )
        return found

    def __init__(self, case: LayerCase, dropout: float = 0.0) -> None:
        super().__init__(case, dropout)
        self.unmerge()

    def parameter(self, part: str) -> "torch.Tensor":
        """Return a parameter."""
        names = {"weight": "weight", "base_bias": "bias", "A": "lora_A", "B": "lora_B"}
        found: torch.Tensor = getattr(self.module, names[part])
        return found

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the weight if it is stored (in, out)."""
        transposed = part == "weight" and self.fan_in_fan_out
        return values.T if transposed else super().to_parameter_layout(part, values)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the weight back."""
        transposed = part == "weight" and self.fan_in_fan_out
        return values.T if transposed else super().from_parameter_layout(part, values)

    def scaling(self) -> float:
        """Return loralib's own scaling."""
        found: Any = self.module.scaling
        return float(found)

    def merge(self) -> None:
        """Switch to eval mode, which merges."""
        self.module.eval()

    def unmerge(self) -> None:
        """Switch to training mode, which unmerges."""
        self.module.train()

    def gradients(self, x: Array, g: Array) -> Gradients:
        """Return the gradients, and go back to the unmerged state."""
        found = super().gradients(x, g)
        self.unmerge()
        return found

    def save_and_load(self) -> "Layer":
        """Load lora_state_dict into a new layer with load_state_dict(strict=False)."""
        import loralib

        twin = type(self)(self.case)
        state = loralib.lora_state_dict(self.module)
        twin.module.load_state_dict(state, strict=False)
        return twin


class LoralibTransposed(LoralibLinear):
    """loralib's Linear with fan_in_fan_out."""

    fan_in_fan_out = True


class LoralibEmbedding(LoralibLinear):
    """loralib's Embedding: one-hot inputs select columns of the transposed table."""

    accepts_any_input = False
    unsupported = frozenset({"build_with_dropout"})
    fan_in_fan_out = True  # the table is (tokens, dimensions)

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return embeddings as linear layers."""
        from phi3_lora_qa.properties.peft_embedding_conv import one_hot_case

        return super().cases().map(one_hot_case)

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return the table's dtype: torch sums the gradients of a token in it."""
        return Arithmetic(dtype=case.dtype, accumulate=case.dtype)

    def layer(self, case: LayerCase, dropout: float) -> "torch.nn.Module":
        """Return loralib's layer, which has no dropout."""
        import loralib

        out_features, in_features = case.weight.shape
        found: torch.nn.Module = loralib.Embedding(
            in_features, out_features, r=case.factors.rank, lora_alpha=case.alpha
        )
        return found

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return the tokens that the one-hot rows select."""
        import torch

        return torch.from_numpy(x.argmax(axis=1))


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class StoredCase(LayerCase):
    """A layer whose parameters differ from the factors of its linear map.

    Attributes:
        stored_a: The library's lora_A, float64.
        stored_b: The library's lora_B, float64.
        shape: The shape of the stored weight, for a convolution.
        enable_lora: The mask of a MergedLinear.
    """

    stored_a: Array
    stored_b: Array
    shape: tuple[int, ...] = ()
    enable_lora: tuple[bool, ...] = ()


class LoralibMergedLinear(LoralibLinear):
    """loralib's MergedLinear: fused blocks of output rows, some of them adapted."""

    forward_form = "delta"

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return float16 for float16: torch sums the gradients of the delta's convolution in it."""
        return Arithmetic(dtype=case.dtype, accumulate="float16" if case.dtype == "float16" else "")

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return fused layers with masks; their factors have a dense B."""
        from phi3_lora_qa.strategies import merged_linear_cases

        return merged_linear_cases().map(
            lambda case: StoredCase(
                dtype=case.dtype, weight=case.weight, base_bias=case.base_bias,
                factors=merged_linear(case.A, case.B, case.scaling, case.enable_lora),
                alpha=case.alpha, rslora=False, x=case.x,
                stored_a=case.A, stored_b=case.B, enable_lora=case.enable_lora,
            )
        )  # fmt: skip

    def layer(self, case: Any, dropout: float) -> "torch.nn.Module":
        """Return loralib's layer."""
        import loralib

        out_features, in_features = case.weight.shape
        found: torch.nn.Module = loralib.MergedLinear(
            in_features,
            out_features,
            r=case.stored_b.shape[1],
            lora_alpha=case.alpha,
            lora_dropout=dropout,
            enable_lora=list(case.enable_lora),
            bias=case.base_bias is not None,
        )
        return found

    @classmethod
    def b_parameter_mask(cls, case: Any) -> Array:
        """Return 0.0 for blocks that are not enabled and for entries outside a block."""
        return merged_linear(
            np.ones_like(case.stored_a), np.ones_like(case.stored_b),
            case.factors.scaling, case.enable_lora,
        ).B  # fmt: skip

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Take the entries of the blocks out of the dense B."""
        if part != "B":
            return super().to_parameter_layout(part, values)
        case: Any = self.case
        rows = np.vsplit(values, len(case.enable_lora))
        enabled = [block for block, on in zip(rows, case.enable_lora, strict=True) if on]
        return diagonal_blocks(np.vstack(enabled), len(enabled))

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Place the blocks in the dense B, or in its gradient."""
        case: Any = self.case
        if part != "B":
            return super().from_parameter_layout(part, values)
        return merged_linear(case.stored_a, values, case.factors.scaling, case.enable_lora).B


class LoralibConv2d(LoralibLinear):
    """loralib's Conv2d on an input as large as its square kernel: one output position."""

    forward_form = "weight"
    unsupported = frozenset({"gradients"})  # one parameter occurs several times in the factors
    dims: ClassVar[int] = 2
    known_failures: ClassVar[dict[str, str]] = {
        "dropout_is_active_in_training_mode": "loralib's convolutions accept lora_dropout and "
        "ignore it; add a dropout layer before the convolution instead",
    }

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return convolutions in loralib's factorization: A (r·k, in·k), B (out·k, r·k)."""
        return _conv_cases(cls.dims)

    def layer(self, case: Any, dropout: float) -> "torch.nn.Module":
        """Return loralib's layer."""
        import loralib

        kind = {1: loralib.Conv1d, 2: loralib.Conv2d, 3: loralib.Conv3d}[self.dims]
        out_features, channels, kernel = case.shape[:3]
        found: torch.nn.Module = kind(
            channels, out_features, kernel, r=len(case.stored_a) // kernel, lora_alpha=case.alpha,
            lora_dropout=dropout, bias=case.base_bias is not None,
        )  # fmt: skip
        return found

    def parameter(self, part: str) -> "torch.Tensor":
        """Return a parameter; those of the base belong to an inner convolution."""
        if part in ("weight", "base_bias"):
            inner: Any = self.module.conv
            found: torch.Tensor = inner.weight if part == "weight" else inner.bias
            return found
        return super().parameter(part)

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Return the stored A or B of the case; reshape the other parts."""
        case: Any = self.case
        stored = {"A": case.stored_a, "B": case.stored_b}
        return stored[part] if part in stored else super().to_parameter_layout(part, values)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Return A or B as the factors of the linear map."""
        case: Any = self.case
        a, b = (values if part == name else stored for name, stored in
                (("A", case.stored_a), ("B", case.stored_b)))  # fmt: skip
        if part in ("A", "B"):
            found = conv_factors(a, b, case.factors.scaling, len(case.weight))
            return found.A if part == "A" else found.B
        return super().from_parameter_layout(part, values)

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return the inputs with channels and spatial dimensions."""
        case: Any = self.case
        found: torch.Tensor = super().to_module_input(x.reshape(len(x), *case.shape[1:]))
        return found


class LoralibConv1d(LoralibConv2d):
    """loralib's Conv1d, which works only for kernel size 1."""

    dims = 1


class LoralibConv3d(LoralibConv2d):
    """loralib's Conv3d, which works only for kernel size 1."""

    dims = 3


def conv_factors(a: Array, b: Array, scaling: float, out_features: int) -> Factors:
    """Return the factors of loralib's convolution as a linear map on flattened inputs.

    B·A is read row by row in the kernel's shape, so n = rows(B) / out of its rows, concatenated,
    give the kernel of one output: B' (out, n·r) takes n rows of B, and A' has A on its diagonal n
    times.
    """
    rows = len(b) // out_features
    return Factors(
        A=block_diagonal(np.tile(a, (rows, 1)), rows),
        B=b.reshape(out_features, -1),
        scaling=scaling,
    )


def _conv_cases(dims: int) -> "st.SearchStrategy[LayerCase]":
    from hypothesis import strategies as st

    from phi3_lora_qa.strategies import alphas, arrays, dtypes, lora_factors

    @st.composite
    def cases(draw: st.DrawFn) -> StoredCase:
        out_features, channels, rank = (draw(st.integers(1, 4)) for _ in range(3))
        kernel = draw(st.integers(1, 3)) if dims == 2 else 1
        dtype, alpha = draw(dtypes()), draw(alphas())
        scaling = scaling_of(alpha, rank)
        stored = draw(
            lora_factors(
                out_features=out_features * kernel,
                in_features=channels * kernel,
                rank=rank * kernel,
                dtype=dtype,
                kinds=LORALIB_FACTOR_KINDS,
                scaling=scaling,
            )
        )
        in_features = channels * kernel**dims
        return StoredCase(
            dtype=dtype,
            weight=draw(arrays((out_features, in_features), dtype=dtype)),
            base_bias=draw(arrays((out_features,), dtype=dtype)) if draw(st.booleans()) else None,
            factors=conv_factors(stored.A, stored.B, scaling, out_features),
            alpha=alpha,
            rslora=False,
            x=draw(arrays((draw(st.integers(1, 3)), in_features), dtype=dtype)),
            stored_a=stored.A,
            stored_b=stored.B,
            shape=(out_features, channels, *[kernel] * dims),
        )

    return cases()


def _dtype(case: LayerCase) -> "torch.dtype":
    import torch

    found: torch.dtype = getattr(torch, case.dtype)
    return found
