"""PEFT's LoRA layers, created in a model and loaded as PEFT does it."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from phi3_lora_qa.libraries import is_older
from phi3_lora_qa.lora import Arithmetic, Array, Factors, alpha_for
from phi3_lora_qa.models.tensor_conversion import to_float64, to_tensor
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.torch_layer import TorchLayer

if TYPE_CHECKING:
    import torch
    from hypothesis import strategies as st

    from phi3_lora_qa.strategies import LayerCase

ADAPTER = "default"
_PLACES = {"A": "lora_A", "B": "lora_B", "magnitude": "lora_magnitude_vector"}


_RSLORA = (
    "add_weighted_adapter sets lora_alpha to the new rank r, which makes the scaling 1, and copies "
    "use_rslora, which makes it sqrt(r); combine adapters without rsLoRA, or set the scale to "
    "1 / sqrt(r) afterwards"
)

_SVD = (
    'add_weighted_adapter with "svd" multiplies the weights by the scaling twice before peft 0.21; '
    "install a newer one"
)


class PeftLinear(TorchLayer):
    """`torch.nn.Linear` with PEFT's LoRA."""

    known_failures: ClassVar[Mapping[str, str]] = {
        "rslora_combination_has_scaling_one": _RSLORA,
        **({"svd_combination_is_optimal_for_its_rank": _SVD} if is_older("peft", "0.21") else {}),
    }

    target: ClassVar[Sequence[str] | None] = ("layer",)
    autocast: ClassVar[bool] = False
    safe_merge: ClassVar[bool] = False

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers, with or without lora_bias."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases(bias=None)

    def base(self, case: "LayerCase") -> "torch.nn.Module":
        """Return the base layer, in the case's dtype."""
        import torch

        out_features, in_features = case.weight.shape
        dtype = getattr(torch, case.dtype)
        return torch.nn.Linear(
            in_features, out_features, bias=case.base_bias is not None, dtype=dtype
        )

    def config(self, factors: Factors, alpha: float, *, rslora: bool, dropout: float) -> Any:
        """Return the LoraConfig of an adapter with these factors."""
        from peft import LoraConfig

        return LoraConfig(
            r=factors.rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT takes fractions, too
            use_rslora=rslora,
            lora_dropout=dropout,
            use_dora=factors.magnitude is not None,
            lora_bias=factors.bias is not None,
            target_modules=None if self.target is None else list(self.target),
        )

    def make_module(self, case: "LayerCase", dropout: float) -> "torch.nn.Module":
        """Return a model with one layer, adapted by get_peft_model."""
        from peft import get_peft_model

        config = self.config(case.factors, case.alpha, rslora=case.rslora, dropout=dropout)
        base: Any = one_layer_model(self.base(case))
        with quiet():
            found: torch.nn.Module = get_peft_model(
                base, config, autocast_adapter_dtype=self.autocast
            )
        return found

    @property
    def model(self) -> Any:
        """The PeftModel."""
        return self.module

    @property
    def layer(self) -> Any:
        """PEFT's layer."""
        return self.model.base_model.model.layer

    def parameter(self, part: str) -> "torch.Tensor":
        """Return a parameter of the layer or of its base."""
        return self.adapter_parameter(part, ADAPTER)

    def adapter_parameter(self, part: str, adapter: str) -> "torch.Tensor":
        """Return a parameter of one adapter, or of the base."""
        found: torch.Tensor
        if part in ("weight", "base_bias"):
            base = self.layer.get_base_layer()
            found = base.weight if part == "weight" else base.bias
        elif part == "bias":
            found = self.layer.lora_B[adapter].bias
        else:
            found = getattr(self.layer, _PLACES[part])[adapter].weight
        return found

    def scaling(self) -> float:
        """Return PEFT's own scaling."""
        return float(self.layer.scaling[ADAPTER])

    def delta(self) -> Array:
        """Return PEFT's get_delta_weight."""
        return self.from_parameter_layout(
            "weight", to_float64(self.layer.get_delta_weight(ADAPTER))
        )

    def merge(self) -> None:
        """Merge the active adapters."""
        with quiet():
            self.model.merge_adapter(safe_merge=self.safe_merge)

    def unmerge(self) -> None:
        """Unmerge all merged adapters."""
        with quiet():
            self.model.unmerge_adapter()

    def set_enabled(self, enabled: bool) -> None:
        """Disable or enable the adapter layers."""
        with quiet():
            if enabled:
                self.model.base_model.enable_adapter_layers()
            else:
                self.model.base_model.disable_adapter_layers()

    def set_scale(self, factor: float) -> None:
        """Set the scale relative to the config."""
        self.layer.set_scale(ADAPTER, factor)

    def save_and_load(self) -> "Layer":
        """Save with save_pretrained, load with from_pretrained."""
        from peft import PeftModel

        twin = type(self)(self.case)
        base: Any = one_layer_model(self.base(self.case))
        with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder, quiet():
            self.model.save_pretrained(folder)
            twin.module = PeftModel.from_pretrained(
                base, folder, autocast_adapter_dtype=self.autocast
            )
        twin.fill("weight", self.case.weight)
        if self.case.base_bias is not None:
            twin.fill("base_bias", self.case.base_bias)
        return twin

    def add_adapter(self, name: str, factors: Factors) -> None:
        """Add an adapter with add_adapter."""
        alpha = alpha_for(factors.scaling, factors.rank)
        config = self.config(factors, alpha, rslora=False, dropout=0.0)
        with quiet():
            self.model.add_adapter(name, config, autocast_adapter_dtype=self.autocast)
        parts = {"A": factors.A, "B": factors.B, "magnitude": factors.magnitude,
                 "bias": factors.bias}  # fmt: skip
        for part, values in parts.items():
            if values is not None:
                tensor = self.adapter_parameter(part, name)
                dtype = str(tensor.dtype).removeprefix("torch.")
                tensor.data = to_tensor(self._to_adapter_layout(part, values), dtype)

    def _to_adapter_layout(self, part: str, values: Array) -> Array:
        """Lay out a part of a further adapter, whose rank may differ."""
        own = self.parameter(part).shape
        shapes = {"A": (len(values), *own[1:]), "B": (*values.shape, *own[2:])}
        return (
            values.reshape(shapes[part])
            if part in shapes
            else self.to_parameter_layout(part, values)
        )

    def set_active_adapters(self, *names: str) -> None:
        """Set the active adapters."""
        self.model.base_model.set_adapter(list(names))

    def forward_mixed(self, x: Array, names: tuple[str, ...]) -> Array:
        """Pass adapter_names along with the batch."""
        import torch

        with torch.no_grad():
            found = self.model(self.to_module_input(x), adapter_names=list(names))
        return to_float64(found).reshape(len(x), -1)

    def combine_adapters(
        self, names: tuple[str, ...], weights: tuple[float, ...], how: str
    ) -> Factors:
        """Combine with add_weighted_adapter, with density 1 if a density applies."""
        with quiet():
            self.model.add_weighted_adapter(
                list(names), list(weights), "combined", combination_type=how, density=1.0
            )
        a, b = (
            self.from_parameter_layout(p, to_float64(self.adapter_parameter(p, "combined")))
            for p in ("A", "B")
        )
        return Factors(
            A=a,
            B=b,
            scaling=float(self.layer.scaling["combined"]),
        )


class PeftSafeMerge(PeftLinear):
    """A linear layer that is merged with safe_merge=True."""

    safe_merge = True


class PeftMixed(PeftLinear):
    """A low-precision base with float32 factors: PEFT's default when it loads an adapter."""

    autocast = True

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers in bfloat16 and float16."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases(dtypes=("bfloat16", "float16"))

    @classmethod
    def arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return mixed arithmetic: only some results are rounded to the base's dtype."""
        return Arithmetic(dtype=case.dtype, mixed=True)


class PeftDora(PeftLinear):
    """A linear layer with DoRA."""

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers with magnitudes."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases(magnitude=True)


class PeftConv1D(PeftLinear):
    """transformers' Conv1D, a linear layer that stores its weight (in, out): fan_in_fan_out."""

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return linear layers."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases()

    def base(self, case: "LayerCase") -> "torch.nn.Module":
        """Return a Conv1D, which always has a bias."""
        import torch
        from transformers.pytorch_utils import Conv1D

        out_features, in_features = case.weight.shape
        kind: Any = Conv1D
        found: torch.nn.Module = kind(out_features, in_features).to(getattr(torch, case.dtype))
        return found

    def config(self, factors: Factors, alpha: float, *, rslora: bool, dropout: float) -> Any:
        """Return a config with fan_in_fan_out."""
        config = super().config(factors, alpha, rslora=rslora, dropout=dropout)
        config.fan_in_fan_out = True
        return config

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the weight."""
        return values.T if part == "weight" else super().to_parameter_layout(part, values)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Transpose the weight back."""
        return values.T if part == "weight" else super().from_parameter_layout(part, values)


def one_layer_model(layer: "torch.nn.Module") -> "torch.nn.Module":
    """Return a model with one layer, called ``layer``."""
    import torch

    class Box(torch.nn.Module):
        """A model of one layer."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layer(x)
            return found

    return Box()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress PEFT's warnings about what the properties do on purpose, such as merging twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
