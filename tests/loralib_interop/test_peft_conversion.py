"""loralib to PEFT and back: bitwise the same factors, the same deltas, the same outputs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loralib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule, exact_alpha, write_adapter
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import forward_bound, gamma, ratios
from phi3_lora_qa.lora.factors import Factors
from phi3_lora_qa.loralib_interop import (
    Checkpoint,
    LayerSpec,
    LoralibConfig,
    adapt,
    describe_layers,
    from_peft,
    lora_state_dict,
    to_peft,
)
from phi3_lora_qa.loralib_interop.loralib_config import LoralibClass
from phi3_lora_qa.models.attach import attach

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MASKS = {"qkv_proj": {"q": True, "k": False, "v": True}}


def in_order(a: torch.Tensor, b: torch.Tensor, scaling: float) -> Any:
    """Return s · B·A in float64, summed rank by rank, so that zero terms change no bit."""
    A, B = a.double().numpy(), b.double().numpy()
    total = np.zeros((B.shape[0], A.shape[1]))
    for p in range(A.shape[0]):
        total = total + np.outer(B[:, p], A[p])
    return scaling * total


def loralib_delta(layer: LayerSpec, a: torch.Tensor, b: torch.Tensor) -> Any:
    """Return loralib's delta, block by block, in the layout of the layer's weight."""
    if layer.kind == "Conv2d":
        size = a.shape[0] // layer.rank
        return in_order(a, b, layer.scaling).reshape(-1, a.shape[1] * size)
    if layer.kind != "MergedLinear":
        return in_order(a, b, layer.scaling)
    k, r = layer.enabled, layer.rank
    rows = b.shape[0] // k
    blocks = iter(
        in_order(a[i * r : (i + 1) * r], b[i * rows : (i + 1) * rows], layer.scaling)
        for i in range(k)
    )
    return np.concatenate(
        [next(blocks) if on else np.zeros((rows, a.shape[1])) for on in layer.mask]
    )


def peft_delta(module: PeftModule) -> Any:
    return in_order(module.A.reshape(module.rank, -1), module.B.flatten(1), module.scaling)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    """Draw a layer of any class, with factors of any magnitude in its dtype, and some zeros."""
    kind: LoralibClass = draw(st.sampled_from(["Linear", "MergedLinear", "Embedding", "Conv2d"]))
    rank, inputs, rows = (draw(st.integers(1, 4)) for _ in range(3))
    mask: tuple[bool, ...] = ()
    shapes = ((rank, inputs), (rows, rank))
    if kind == "MergedLinear":
        mask = tuple(draw(st.lists(st.booleans(), min_size=1, max_size=6).filter(any)))
        shapes = ((rank * sum(mask), inputs), (rows * sum(mask), rank))
    elif kind == "Conv2d":
        size = draw(st.integers(1, 3))
        shapes = ((rank * size, inputs * size), (rows * size, rank * size))
    layer = LayerSpec(
        name="model.some_layer",
        kind=kind,
        rank=rank,
        alpha=draw(st.integers(-64, 64)),
        mask=mask,
    )
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = 10.0 ** draw(st.sampled_from([-30, -3, 0, 3]))
    a, b = ((torch.randn(s, generator=generator) * spread).to(dtype) for s in shapes)
    b[draw(st.integers(0, b.shape[0] - 1))] = 0
    names = (f"{layer.name}.lora_A", f"{layer.name}.lora_B")
    return Checkpoint(tensors=dict(zip(names, (a, b), strict=True)), layers=(layer,))


@settings(max_examples=1000, derandomize=True, database=None, deadline=None)
@given(checkpoints())
def test_to_peft_and_back_is_the_identity_and_the_delta_is_bitwise_equal(
    checkpoint: Checkpoint,
) -> None:
    (layer,) = checkpoint.layers or ()
    adapter = to_peft(checkpoint, "base")
    (module,) = adapter.modules
    a, b = checkpoint.tensors.values()
    assert module.scaling == layer.scaling
    assert np.array_equal(peft_delta(module), loralib_delta(layer, a, b))
    masks = {"some_layer": layer.mask} if layer.mask else {}
    back = from_peft(adapter, masks, {})
    assert back.layers == checkpoint.layers
    assert back.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


def test_the_layout_of_blocks_is_loralibs_own_within_the_rounding_of_a_product() -> None:
    layer = loralib.MergedLinear(5, 12, 3, 7, enable_lora=[True, False, True, True]).double()
    nn.init.normal_(layer.lora_B)
    (found,) = describe_layers(nn.ModuleDict({"x": layer}))
    theirs = layer.merge_AB().detach().numpy() * layer.scaling
    ours = loralib_delta(found, layer.lora_A.detach(), layer.lora_B.detach())
    sizes = loralib_delta(found, layer.lora_A.detach().abs(), layer.lora_B.detach().abs())
    assert ratios(np.abs(theirs - ours), 2 * gamma(5, "float64") * sizes).max() <= 1


def test_a_convolution_computes_the_same_in_peft_and_loralib() -> None:
    plain: Any = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False)).double()
    theirs: Any = copy.deepcopy(plain)
    adapt(theirs, LoralibConfig(rank=2, alpha=5, targets=("0",)))
    nn.init.normal_(theirs[0].lora_B)
    checkpoint = Checkpoint(tensors=lora_state_dict(theirs), layers=describe_layers(theirs))
    (module,) = to_peft(checkpoint, "").modules
    assert module.rank == 2 * 3 * 3
    alpha: Any = exact_alpha(module.scaling, module.rank, "0")
    tuned: Any = get_peft_model(
        copy.deepcopy(plain), LoraConfig(r=18, lora_alpha=alpha, target_modules=["0"])
    )
    layer: Any = tuned.base_model.model[0]
    layer.lora_A.default.weight.data = module.A
    layer.lora_B.default.weight.data = module.B
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        # The same sums over absolute values: 27 products a kernel, 18 a rank, and s.
        reach = module.scaling * (module.B.abs().flatten(1) @ module.A.abs().flatten(1))
        kernel = plain[0].weight.abs() + reach.reshape(4, 3, 3, 3)
        size = nn.functional.conv2d(x.abs(), kernel, padding=1)
        error = (tuned(x) - theirs(x)).abs()
        assert ratios(error.numpy(), 2 * gamma(27 + 18 + 3, "float64") * size.numpy()).max() <= 1
        assert (tuned(x) - plain(x)).abs().max() > 0.01


@pytest.fixture
def pair(
    model: Any, tiny: Any, perturb: Callable[[Any], None], tmp_path: Path
) -> tuple[Any, Any, PeftAdapter]:
    """Return the tiny base with loralib's layers, and with the converted PEFT adapter."""
    targets = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens")
    layers = adapt(model, LoralibConfig(rank=3, alpha=8, targets=targets, masks=MASKS))
    perturb(model)
    adapter = to_peft(Checkpoint(tensors=lora_state_dict(model), layers=layers), "tiny")
    write_adapter(tmp_path, adapter, [name for name, _ in model.named_modules()])
    return model, attach(tiny.model, tmp_path), adapter


def test_every_layer_computes_the_same_in_peft_and_loralib_within_rounding(
    pair: tuple[Any, Any, PeftAdapter], ids: torch.Tensor
) -> None:
    theirs, tuned, adapter = pair
    furthest = 0.0
    for module in adapter.modules:
        layer = theirs.get_submodule(module.name)
        other = tuned.base_model.model.get_submodule(module.name)
        with torch.no_grad():
            if module.is_embedding:
                assert torch.equal(layer(ids), other(ids))
                continue
            x = torch.randn(layer.in_features)
            error = (layer(x).double() - other(x).double()).abs().numpy()
        factors = as_factors(module)
        weight = layer.weight.detach().double().numpy()
        bound = forward_bound(weight, factors, x.double().numpy(), "float32")
        furthest = max(furthest, float(ratios(error, 2 * bound).max()))
    print(f"largest error / bound: {furthest:.3f}")
    assert furthest <= 1


def test_the_logits_are_the_same_in_peft_and_loralib_within_first_order_rounding(
    pair: tuple[Any, Any, PeftAdapter], ids: torch.Tensor
) -> None:
    """The gradient propagates each layer's rounding error to a logit.

    The worst case of n roundings is `forward_bound`, which has a factor n; independent roundings
    add up to a spread of its 1/√n (Higham and Mary 2019, A new approach to probabilistic rounding
    error analysis), and those of different outputs in squares. Ten spreads are allowed. The
    operations between the layers are the same code in both, and count as much again.
    """
    theirs, tuned, adapter = pair
    linear = [module for module in adapter.modules if not module.is_embedding]
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in linear:

        def keep(_: Any, x: Any, y: torch.Tensor, name: str = module.name) -> None:
            if y.is_leaf:
                y.requires_grad_()
            else:
                y.retain_grad()
            seen[name] = (x[0].detach(), y)

        tuned.base_model.model.get_submodule(module.name).register_forward_hook(keep)
    logits = tuned(ids).logits[0, -1]
    chosen = int(logits.argmax())
    logit = logits[chosen]
    logit.backward()
    squares = 0.0
    for module in linear:
        factors = as_factors(module)
        weight = theirs.get_submodule(module.name).weight.detach().double().numpy()
        roundings = weight.shape[1] + module.rank + 3
        inputs, outputs = seen[module.name]
        assert outputs.grad is not None
        for x, slope in zip(inputs[0].double().numpy(), outputs.grad[0].double(), strict=True):
            spread = forward_bound(weight, factors, x, "float32") / np.sqrt(roundings)
            squares += 2 * float(np.sum((slope.numpy() * spread) ** 2))  # in either model
    bound = 2 * 10 * squares**0.5
    with torch.no_grad():
        error = abs(float(theirs(ids).logits[0, -1, chosen] - logit))
    print(f"logit {float(logit.detach()):.3f}, error {error:.1e}, bound {bound:.1e}")
    assert error <= bound < 1e-2


def test_a_wrong_scaling_exceeds_the_rounding_of_a_logit(
    pair: tuple[Any, Any, PeftAdapter], ids: torch.Tensor
) -> None:
    theirs, tuned, _ = pair
    theirs.model.layers[0].self_attn.qkv_proj.scaling *= 3  # alpha not multiplied by k
    with torch.no_grad():
        assert (theirs(ids).logits - tuned(ids).logits).abs().max() > 0.1


def as_factors(module: PeftModule) -> Factors:
    A, B = module.A.double().numpy(), module.B.double().numpy()
    return Factors(A=A, B=B, scaling=module.scaling)


def layer_of(kind: Any = "Linear", **changes: Any) -> LayerSpec:
    return LayerSpec(**{"name": "a.b", "kind": kind, "rank": 2, "alpha": 4} | changes)


def state(a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {"a.b.lora_A": torch.ones(a), "a.b.lora_B": torch.ones(b)}


@pytest.mark.parametrize(
    ("tensors", "layers", "message"),
    [
        (state((2, 3), (4, 2)), (), "is only in the checkpoint"),
        (state((2, 3), (4, 2)), (layer_of(rank=3),), "do not fit a Linear of rank 3"),
        (state((3, 3), (4, 2)), (layer_of(),), "do not fit a Linear of rank 2"),
        (
            state((4, 3), (5, 2)),
            (layer_of("MergedLinear", mask=(True, True)),),
            "do not fit a MergedLinear",
        ),
        (state((6, 9), (12, 6)), (layer_of("Conv2d", groups=2),), "with groups PEFT arranges"),
        (
            {**state((2, 3), (4, 2)), "a.b.bias": torch.ones(4)},
            (layer_of(),),
            "not a loralib factor",
        ),
        (
            {**state((2, 3), (4, 2)), "a.weight": torch.ones(4, 4)},
            (layer_of(),),
            "not a loralib factor",
        ),
        ({"a.b.lora_A": torch.ones(2, 3)}, (layer_of(),), "needs two factors of the same dtype"),
        ({}, (), "contains no factors"),
    ],
)
def test_factors_that_contradict_their_description_are_refused(
    tensors: Any, layers: tuple[LayerSpec, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        to_peft(Checkpoint(tensors=tensors, layers=layers), "")


def adapter_of(a: torch.Tensor, b: torch.Tensor, **changes: Any) -> PeftAdapter:
    values: dict[str, Any] = {"name": "a.b", "A": a, "B": b, "scaling": 2.0}
    module = PeftModule(**values | changes)
    return PeftAdapter(modules=(module,), base="")


@pytest.mark.parametrize(
    ("adapter", "masks", "message"),
    [
        (adapter_of(torch.ones(4, 3), torch.ones(6, 4)), {"b": [True, True]}, "B is not zero"),
        (
            adapter_of(torch.ones(3, 3), torch.ones(6, 3)),
            {"b": [True, True]},
            "cannot be divided into 2 pairs",
        ),
        (
            adapter_of(torch.ones(4, 3), torch.ones(5, 4)),
            {"b": [True, True]},
            "cannot be divided into 2 pairs",
        ),
        (adapter_of(torch.ones(4, 3), torch.ones(6, 4)), {"c": [True]}, "matches no layer"),
        (
            adapter_of(torch.ones(2, 5), torch.ones(3, 2), is_embedding=True),
            {"b": [True]},
            "only to linear layers: ",
        ),
        (adapter_of(torch.ones(9, 2, 3, 3), torch.ones(4, 9, 1, 1)), {}, "do not have its form"),
        (adapter_of(torch.ones(2, 2, 3, 3), torch.ones(4, 2, 1, 1)), {}, "do not have its form"),
    ],
)
def test_a_peft_module_without_a_loralib_counterpart_is_refused(
    adapter: PeftAdapter, masks: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        from_peft(adapter, masks, {})


def test_a_scaling_that_no_alpha_gives_is_explained(tmp_path: Path) -> None:
    scale = next(s for s in np.linspace(0.1, 0.9, 999).tolist() if not has_alpha(s, 7))
    adapter = adapter_of(torch.ones(7, 3), torch.ones(6, 7), scaling=scale)
    with pytest.raises(
        InputError, match=r"a\.b cannot .* rank is now 7, .* train with an integer alpha"
    ):
        write_adapter(tmp_path, adapter, ["a.b"])
    assert list(tmp_path.iterdir()) == []


def has_alpha(scale: float, rank: int) -> bool:
    near = scale * rank
    steps = (near, np.nextafter(near, 0), np.nextafter(near, 10))
    return any(alpha / rank == scale for alpha in steps)
