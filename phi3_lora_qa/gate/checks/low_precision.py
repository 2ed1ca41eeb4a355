"""Checkpoint stage, low precision: the adapter on a base in bfloat16, in float16, and in 4 bits.

No such base is loaded. The adapter is attached to a module tree whose weights take no memory, and
one module at a time gets its real weight, rounded. A module's own product W·x is used as computed,
on any hardware; what the adapter adds is compared with the files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.tensor_names import TRAINED
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.extras import is_installed, pip_command
from phi3_lora_qa.gate.adapted_layers import LoraLayer
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    StopCheckError,
    checks_of,
    failed,
    no_lora_module,
    passed,
)
from phi3_lora_qa.gate.checks.round_trips import saved
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.lora import Approximation, Arithmetic, Array, Factors, exact, ratios
from phi3_lora_qa.lora.weight_bounds import approximate_delta, approximate_gain
from phi3_lora_qa.models.quantized_base import keep_weights_as_stored
from phi3_lora_qa.models.tensor_conversion import to_float64

if TYPE_CHECKING:
    import torch

LOW = ("bfloat16", "float16")
COMPUTE = "float32"
"""The dtype in which PEFT keeps factors, and so computes their update."""
FIX = "serve this adapter on a base in float32, or with a peft version that passes this check"


def checks() -> tuple[Check, ...]:
    """Return the checks on bases of low precision."""
    return checks_of(
        "checkpoint", low_precision_base_is_within_bounds, quantised_base_is_within_bounds
    )


def low_precision_base_is_within_bounds(session: AdapterSession) -> CheckOutcome:
    """On a bfloat16 and a float16 base the adapter stays in float32 and adds its update.

    PEFT documents float32 (``autocast_adapter_dtype``, on by default). Modules that are saved whole
    take the base's dtype.
    """
    import torch

    from phi3_lora_qa.models.attach import adapter_tensors, attach, weightless_copy

    layers, largest = session.list_lora_layers(), _LargestError()
    if not layers:
        return no_lora_module()
    for low in LOW:
        dtype = getattr(torch, low)
        with saved(session.attach_adapter()) as folder:
            try:
                model = attach(weightless_copy(session.load_base().model, dtype), folder)
            except AdapterError as error:
                raise StopCheckError(failed(f"on a {low} base: {error}", FIX)) from error
        if fault := _require_float32(adapter_tensors(model), low):
            return fault
        for seed, layer in enumerate(layers):
            module: Any = model.get_submodule(f"base_model.model.{layer.name}")
            with _weight(module.get_base_layer(), layer.layer.get_base_layer(), dtype):
                largest.add(f"{layer.name} on a {low} base", layer, module, low, seed)
    return largest.conclude(f"on bases in {' and '.join(LOW)}", len(layers))


def quantised_base_is_within_bounds(session: AdapterSession) -> CheckOutcome:
    """On a base in 4 bits (NF4, computing in bfloat16, as for QLoRA) every module adds its update.

    bitsandbytes is an optional package: without it the check is not applicable, and passes.
    """
    if not is_installed("bitsandbytes"):
        how = pip_command("qlora")
        return passed(f"not applicable: bitsandbytes is not installed ({how})")
    if refused := _refused_in_four_bits(session.adapter.config):
        return passed(f"not applicable: on 4 bits PEFT refuses an adapter with {refused}")
    linear = part_of("peft", "peft.tuners.lora.layer", "Linear")
    tuned, adapted = session.attach_adapter(), session.list_lora_layers()
    if not adapted:
        return no_lora_module()
    # As transformers quantises a model: linear layers except the head.
    layers = [
        layer for layer in adapted if isinstance(layer.layer, linear) and layer.name != "lm_head"
    ]
    if not layers:
        return passed("not applicable: the adapter has no linear module except the head")
    largest = _LargestError()
    for seed, layer in enumerate(layers):
        module = _in_four_bits(layer, tuned.peft_config[layer.adapter])
        largest.add(f"{layer.name} on a base in 4 bits", layer, module, LOW[0], seed)
    return largest.conclude("on a base in 4 bits", len(layers))


def _refused_in_four_bits(config: LoraAdapterConfig) -> str:
    """Return the setting with which PEFT 0.21 builds no layer on a base in 4 bits, or ``""``."""
    if config.use_bdlora:
        return "use_bdlora"
    if config.velora_config:
        return "velora_config"
    if config.init_lora_weights in ("orthogonal", "mica"):
        return f"init_lora_weights={config.init_lora_weights!r}"
    return ""


class _LargestError:
    """Remembers the module whose error is largest in relation to its bound."""

    def __init__(self) -> None:
        self.ratio, self.error, self.bound, self.name = 0.0, 0.0, 0.0, ""
        self.unbounded: list[str] = []
        """Modules whose values exceed the range of the base's dtype, so that no bound applies."""

    def add(self, name: str, layer: LoraLayer, module: Any, low: str, seed: int) -> None:
        error, bound = _error_and_bound(layer, module, low, seed)
        if not np.isfinite(bound).any():
            self.unbounded.append(name)
        found = ratios(error, bound)
        at = int(np.argmax(found))
        if found[at] > self.ratio:
            self.ratio, self.name = float(found[at]), name
            self.error, self.bound = float(error[at]), float(bound[at])

    def conclude(self, where: str, modules: int) -> CheckOutcome:
        measured = {
            "module": self.name, "error": self.error, "bound": self.bound, "ratio": self.ratio,
            "modules": modules,
        }  # fmt: skip
        if self.ratio > 1.0:
            return failed(
                f"the output of {self.name} is off by {self.error:.3g}; rounding explains at most "
                f"{self.bound:.3g}",
                FIX,
                measured,
            )
        if self.unbounded:
            return failed(
                f"values of {self.unbounded[0]} exceed its range, so no error bound applies",
                FIX,
                measured | {"beyond": self.unbounded},
            )
        return passed(
            f"{where} the adapter stays in {COMPUTE} and {modules} modules add their update; the "
            f"largest error is {self.ratio:.2g} of its bound",
            measured,
        )


def _error_and_bound(layer: LoraLayer, module: Any, low: str, seed: int) -> tuple[Array, Array]:
    """Return the error for one drawn input, and its bound, both (out,).

    With y the module's own output as computed, u = s·(B·(A·x) + b) and g = 1, or DoRA's
    m / ‖W + s·B·A‖ of each row, the module must return g·(y + u). It is computed in float32, as in
    `forward_bound`, from a y that is stored and therefore exact. The result is rounded to the
    base's dtype; on 4 bits the update is rounded to it before.

    Args:
        layer: The module with its factors from the file.
        module: PEFT's layer for it on the base of low precision.
        low: The dtype of inputs and outputs.
        seed: Draws the input.
    """
    import torch

    plain = module.get_base_layer()
    x, stored_x = _draw(layer, low, seed)
    stored_x = stored_x.to(plain.weight.device)
    with torch.inference_mode():
        own, found = to_float64(plain(stored_x)), to_float64(module(stored_x))
    weight = None if layer.factors.magnitude is None else _weight_of(plain, layer)
    expected, update = _computed(layer.factors, weight, x[None], exact(own))
    stored = Arithmetic(dtype=low)
    bound = expected.error + stored.rounding(update.max_abs)
    bound = bound + stored.rounding(np.abs(expected.value) + bound)
    return np.abs(found - expected.value)[0], bound[0]


def _computed(
    f: Factors, weight: Array | None, x: Array, own: Approximation
) -> tuple[Approximation, Approximation]:
    """Return the output for x (1, in) in float32, and the update in it, both (1, out)."""
    inside = Arithmetic(dtype=COMPUTE)
    low_rank = inside.product(inside.product(exact(x), exact(f.A.T)), exact(f.B.T))
    if f.bias is not None:
        low_rank = inside.add(low_rank, exact(f.bias[None]))
    if weight is None or f.magnitude is None:
        update = inside.scale(low_rank, f.scaling)
        return inside.add(own, update), update
    combined = inside.add(exact(weight), approximate_delta(f, inside))
    gain = approximate_gain(combined, f.magnitude, inside).column().transposed()
    more = inside.times(inside.subtract(gain, exact(np.ones((1, 1)))), own)
    update = inside.add(more, inside.scale(inside.times(gain, low_rank), f.scaling))
    return inside.add(own, update), update


def _draw(layer: LoraLayer, low: str, seed: int) -> "tuple[Array, torch.Tensor]":
    """Return an input that is exact in ``low``, as float64 (in,) and as the module's argument.

    It has normal numbers. It is one-hot if the module is an embedding, or if PEFT adapts the weight
    (`target_parameters`) and so rounds it before any product.
    """
    import torch

    wrapper = part_of("peft", "peft.tuners.lora.layer", "ParamWrapper")
    generator, inputs = np.random.default_rng(seed), int(layer.factors.A.shape[1])
    if layer.is_embedding:
        token = int(generator.integers(inputs))
        return np.eye(1, inputs, token)[0], torch.tensor([token])
    if isinstance(layer.layer, wrapper):
        x = torch.eye(inputs)[int(generator.integers(inputs))]
    else:
        x = torch.from_numpy(generator.standard_normal(inputs))
    stored = x.to(getattr(torch, low))[None]
    return to_float64(stored[0]), stored


def _weight_of(plain: Any, layer: LoraLayer) -> Array:
    dequantize = part_of("peft", "peft.utils.integrations", "dequantize_module_weight")
    weight = to_float64(dequantize(plain))
    return weight.T if layer.is_embedding else weight


def _require_float32(tensors: "dict[str, torch.Tensor]", low: str) -> CheckOutcome | None:
    endings = tuple(f".{part}" for part in TRAINED)
    for name, tensor in tensors.items():
        if name.endswith(endings) and str(tensor.dtype) != f"torch.{COMPUTE}":
            return failed(
                f"on a {low} base {name} becomes {tensor.dtype}; PEFT documents torch.{COMPUTE}",
                FIX,
                {"tensor": name},
            )
    return None


@contextmanager
def _weight(weightless: Any, real: Any, dtype: "torch.dtype") -> Iterator[None]:
    """Temporarily set the rounded weight of one module of the tree without weights."""
    empty = weightless.weight.data
    weightless.weight.data = real.weight.detach().to(dtype)
    try:
        yield
    finally:
        weightless.weight.data = empty


def _in_four_bits(layer: LoraLayer, config: Any) -> Any:
    """Return PEFT's layer for this module on the base's weight in 4 bits, with the same factors."""
    import bitsandbytes as bnb
    import torch
    from peft import inject_adapter_in_model

    cast_adapter_dtype = part_of("peft", "peft.tuners.tuners_utils", "cast_adapter_dtype")
    plain = layer.layer.get_base_layer()
    four = bnb.nn.Linear4bit(
        plain.in_features,
        plain.out_features,
        bias=False,
        compute_dtype=getattr(torch, LOW[0]),
        quant_type="nf4",
    )
    four.weight = bnb.nn.Params4bit(
        plain.weight.detach().to("cpu", torch.float32), requires_grad=False, quant_type="nf4"
    )
    four.to("cpu")  # this quantises the weight
    keep_weights_as_stored(four)
    leaf = layer.name.rpartition(".")[2]
    box: Any = torch.nn.ModuleDict({leaf: four})
    box.is_loaded_in_4bit = True  # PEFT chooses its layer by this
    alone = replace(
        config,
        r=layer.layer.r[layer.adapter],
        lora_alpha=layer.layer.lora_alpha[layer.adapter],
        target_modules={leaf}, exclude_modules=None, rank_pattern={}, alpha_pattern={},
        layers_to_transform=None, layers_pattern=None, modules_to_save=None,
        trainable_token_indices=None, target_parameters=None, bias="none",
    )  # fmt: skip
    inject_adapter_in_model(alone, box, layer.adapter)
    module = box[leaf]
    cast_adapter_dtype(box, layer.adapter)  # as PeftModel does it
    module.load_state_dict(
        {
            name: tensor
            for name, tensor in layer.layer.state_dict().items()
            if not name.startswith("base_layer.")
        },
        strict=False,
    )
    return module.eval()
