"""Correct LoRA layers and a correct model in numpy: every property passes on them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from phi3_lora_qa.lora import (
    Array,
    Factors,
    Mixture,
    concatenate,
    delta,
    factor_gradients,
    merged_weight,
    mix_factors,
    module_scaling,
    output,
    round_to,
    truncate,
)
from phi3_lora_qa.lora.scaling import ScalingConfig
from phi3_lora_qa.properties.layer import Gradients, Layer
from phi3_lora_qa.properties.peft_model import PeftPhi3
from phi3_lora_qa.properties.whole_model import ModelCase, ModelUnderTest
from phi3_lora_qa.strategies import LayerCase, linear_cases


class ReferenceLayer(Layer):
    """Computes in float64, and rounds each result once to the case's dtype."""

    options: ClassVar[dict[str, Any]] = {"bias": None}

    def __init__(self, case: LayerCase, factors: Factors, dropout: float = 0.0) -> None:
        self.case, self.dropout = case, dropout
        self.adapters, self.scales = {"default": factors}, {"default": 1.0}
        self.base, self.base_bias = case.weight, case.base_bias
        self.active: tuple[str, ...] = ("default",)
        self.merged: tuple[str, ...] = ()
        self.enabled, self.training = True, False

    @classmethod
    def cases(cls) -> Any:
        return linear_cases(**cls.options)

    @classmethod
    def build(cls, case: LayerCase) -> Self:
        return cls(case, case.factors)

    @classmethod
    def build_with_dropout(cls, case: LayerCase, rate: float) -> Self:
        return cls(case, case.factors, rate)

    @classmethod
    def build_initialized(cls, case: LayerCase) -> Self:
        f = case.factors
        A = np.random.default_rng(0).normal(size=f.A.shape)
        norms = np.linalg.norm(case.weight, axis=1)
        return cls(
            case,
            Factors(
                A=round_to(A, case.dtype),
                B=np.zeros_like(f.B),
                scaling=f.scaling,
                magnitude=None if f.magnitude is None else round_to(norms, case.dtype),
                bias=None if f.bias is None else np.zeros_like(f.bias),
            ),
        )

    def current_factors(self, name: str) -> Factors:
        """Return an adapter's factors with its current scaling."""
        f = self.adapters[name]
        return replace(f, scaling=self.scales[name] * f.scaling)

    def rounded(self, values: Array) -> Array:
        return round_to(values, self.case.dtype)

    def compute_output(self, x: Array, names: tuple[str, ...]) -> Array:
        kept = np.ones(x.shape)
        if self.training and self.dropout:
            drawn = np.random.default_rng(0).random(x.shape) >= self.dropout
            kept = drawn / max(1.0 - self.dropout, 2.0**-10)
        y = x @ self.base.T
        for name in names:
            y = y + output(self.base, self.current_factors(name), x * kept) - x * kept @ self.base.T
        return self.rounded(y if self.base_bias is None else y + self.base_bias)

    def forward(self, x: Array) -> Array:
        if not self.enabled:
            self.restore_weight()
        return self.compute_output(x, self.active if self.enabled and not self.merged else ())

    def forward_mixed(self, x: Array, names: tuple[str, ...]) -> Array:
        known = [() if name == "__base__" else (name,) for name in names]
        return np.vstack(
            [self.compute_output(row[None], n) for row, n in zip(x, known, strict=True)]
        )

    def weight(self) -> Array:
        return self.base

    def delta(self) -> Array:
        return self.rounded(delta(self.current_factors("default")))

    def factors(self) -> Factors:
        return self.current_factors("default")

    def merge(self) -> None:
        for name in self.active:
            if name not in self.merged:
                f = self.current_factors(name)
                self.base = self.rounded(merged_weight(self.base, f))
                if f.bias is not None and self.base_bias is not None:
                    self.base_bias = self.rounded(self.base_bias + f.scaling * f.bias)
                self.merged = (*self.merged, name)

    def unmerge(self) -> None:
        self.restore_weight()

    def restore_weight(self) -> None:
        for name in reversed(self.merged):
            f = self.current_factors(name)
            if f.magnitude is not None:
                norms = np.linalg.norm(self.case.weight + delta(f), axis=1)
                self.base = self.rounded(self.base / (f.magnitude / norms)[:, None])
            self.base = self.rounded(self.base - delta(f))
            if f.bias is not None and self.base_bias is not None:
                self.base_bias = self.rounded(self.base_bias - f.scaling * f.bias)
        self.merged = ()

    def set_enabled(self, enabled: bool) -> None:
        self.enabled = enabled

    def set_scale(self, factor: float) -> None:
        self.scales["default"] = factor

    def gradients(self, x: Array, g: Array) -> Gradients:
        found = factor_gradients(self.base, self.current_factors("default"), x, g)
        A, B = self.rounded(found.A), self.rounded(found.B)
        m, b = (None if v is None else self.rounded(v) for v in (found.magnitude, found.bias))
        return Gradients(A=A, B=B, magnitude=m, bias=b)

    def trainable_base_parameters(self) -> tuple[str, ...]:
        return ()

    def train(self) -> None:
        self.training = True

    def eval(self) -> None:
        self.training = False

    def save_and_load(self) -> Layer:
        return type(self)(self.case, self.current_factors("default"))

    def output_dtype(self, x: Array, dtype: str) -> str:
        return dtype

    def add_adapter(self, name: str, factors: Factors) -> None:
        self.adapters[name], self.scales[name] = factors, 1.0

    def set_active_adapters(self, *names: str) -> None:
        self.active = names

    def combine_adapters(
        self, names: tuple[str, ...], weights: tuple[float, ...], how: str
    ) -> Factors:
        parts = [self.current_factors(name) for name in names]
        if how == "cat":
            found = concatenate(parts, weights)
        elif how == "svd":
            found = truncate(concatenate(parts, weights), max(f.rank for f in parts)).factors
        else:
            kind: Any = "linear" if how == "dare_linear" else how
            found = mix_factors(parts, weights, Mixture(kind=kind))
        return replace(found, A=self.rounded(found.A), B=self.rounded(found.B))


class ReferenceDora(ReferenceLayer):
    """The correct layer with DoRA."""

    options: ClassVar[dict[str, Any]] = {"magnitude": True}


class ReferenceModel(ModelUnderTest):
    """A model: logits linear in the sum of the previous tokens, plus a delta for each module."""

    def __init__(self, case: ModelCase, lora: Any, *, adapted: bool = True) -> None:
        self.case, self.lora, self.adapted = case, lora, adapted
        drawn = np.random.default_rng(case.seed)
        self.table = drawn.normal(size=(case.phi3.vocab_size, 4))
        self.head = drawn.normal(size=(4, 8))
        self.deltas = {
            f"model.layers.{layer}.{module}": drawn.normal(size=self.head.shape)
            for layer in range(case.phi3.num_hidden_layers)
            for module in ("self_attn.qkv_proj", "mlp.down_proj")
        }

    @classmethod
    def cases(cls) -> Any:
        return PeftPhi3.cases()

    @classmethod
    def build(cls, case: ModelCase) -> Self:
        return cls(case, case.lora)

    @classmethod
    def base_logits(cls, case: ModelCase) -> Array:
        batch = case.batch
        return cls.build(case).compute_output(batch.input_ids, batch.attention_mask, adapted=False)

    def compute_output(self, ids: Any, mask: Any, *, adapted: bool) -> Array:
        head = self.head
        for module, (_, scaling) in self.scaled().items() if adapted else ():
            head = head + scaling * self.deltas[module]
        sums = (self.table[ids] * mask[:, :, None]).cumsum(axis=1)
        return np.asarray(sums @ head)

    def scaled(self) -> Mapping[str, tuple[int, float]]:
        lora = self.lora
        config = ScalingConfig(
            rank=lora.r,
            alpha=lora.lora_alpha,
            rank_pattern=lora.rank_pattern,
            alpha_pattern=lora.alpha_pattern,
            rslora=lora.use_rslora,
        )
        found = {module: module_scaling(module, config) for module in self.deltas}
        return {module: (each.rank, each.scaling) for module, each in found.items()}

    def logits(self, ids: Any, mask: Any) -> Array:
        return self.compute_output(ids, mask, adapted=self.adapted)

    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        return self.compute_output(ids, mask, adapted=False)

    def merge_and_unload(self) -> Self:
        return self

    def unload(self) -> Self:
        return type(self)(self.case, self.lora, adapted=False)

    def save_and_load(self, name: str) -> tuple[Self, bool]:
        return type(self)(self.case, self.lora), True

    def scalings(self) -> Mapping[str, tuple[int, float]]:
        return self.scaled()

    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        return {"head": self.head}, {"head": self.head.copy()}
