"""Checkpoint stage: the adapter survives saving and merging, and the base survives the adapter."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile
from phi3_lora_qa.adapter.tensor_names import PREFIX, Part, tensor_name
from phi3_lora_qa.gate.adapted_layers import LoraLayer, lora_layers
from phi3_lora_qa.gate.adapter_factors import weights_of
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.gate.checks import low_precision, round_trips
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.models.tensor_conversion import to_float64
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    from torch import Tensor

MEND_MERGE = "serve the adapter unmerged, or merge with a peft version that passes this check"

_ROW_BOUNDS: "WeakKeyDictionary[Bench, dict[str, lora.Array]]" = WeakKeyDictionary()
"""Both checks on merging need the merge's bound, which costs more than merging does."""

MEND_BASE = (
    "the adapter rewrites the base; save it again as plain LoRA (init_lora_weights true, no "
    "modules beside LoRA's own factors)"
)


def checks() -> tuple[Check, ...]:
    """Return the stage's checks. Those on the base come last, and so see what the others did."""
    own = (
        merged_matches_unmerged,
        adapter_comes_back_from_merged,
        base_is_unchanged_when_attached,
        base_restored_when_disabled,
        base_restored_when_unloaded,
    )
    return (
        *round_trips.checks(),
        *low_precision.checks(),
        *(check_of("checkpoint", function) for function in own),
    )


def merged_matches_unmerged(bench: Bench) -> Held:
    """Module by module, PEFT's merged weight is W + delta within its rounding bound.

    Each layer is merged in a copy, so that one layer and never the model is held twice. An adapter
    that cannot be merged is one that PEFT refuses to merge, rather than merging part of it.
    """
    if bench.config.merge_refusal:
        return _merging_is_refused(bench)
    worst, name, count = 0.0, "", 0
    for layer in lora_layers(bench):
        weight = layer.base_weight()
        expected = lora.merged_weight(weight, layer.factors)
        allowed = _merge_bound(bench, layer, weight)
        _require_promise(layer, allowed)
        ratio = float(np.max(lora.ratios(np.abs(layer.peft_merged() - expected), allowed)))
        if ratio > worst:
            worst, name = ratio, layer.name
        count += 1
    measured = {"modules": count, "largest_error_over_bound": worst, "module": name}
    if worst > 1.0:
        raise CheckFailedError(
            f"merging {name} gives a weight {worst:.3g} times further from W + delta than rounding "
            "explains",
            MEND_MERGE,
            measured,
        )
    return Held(
        message=f"{count} modules merge within their bounds (at most {worst:.2g} of it)",
        measured=measured,
    )


def _merging_is_refused(bench: Bench) -> Held:
    for layer in lora_layers(bench):
        try:
            layer.peft_merged()
        except RuntimeError as error:
            # Its own words for it: another failure (no memory, say) proves nothing, and is raised.
            if "lora_bias" not in str(error):
                raise
            continue
        raise CheckFailedError(
            f"PEFT merges {layer.name} and drops part of it: {bench.config.merge_refusal}",
            "serve the adapter unmerged, with a peft version that refuses to merge it",
            {"module": layer.name},
        )
    return Held(
        message=f"PEFT refuses to merge, as it must ({bench.config.merge_refusal}); "
        "serve the adapter unmerged"
    )


def adapter_comes_back_from_merged(bench: Bench) -> Held:
    """The merged model minus the base is the adapter again, and nothing else.

    Each update is extracted from the difference as factors of its rank, and is the delta within
    the bound; modules saved whole and trained token rows stand in the merged model as in the file;
    every other tensor is the base's to the bit. One tensor is merged at a time.
    """
    if bench.config.merge_refusal:
        return Held(message=f"not applicable: {bench.config.merge_refusal}")
    from phi3_lora_qa.models.merge import merged_tensors

    layers = {layer.name: layer for layer in lora_layers(bench)}
    base, worst, name, kept = bench.run.base(bench), 0.0, "", 0
    plain, weights = base.model.state_dict(), weights_of(bench.folder)
    for full, merged in merged_tensors(base, bench.tuned, untied=True):
        module = full.rpartition(".")[0]
        if module in layers:
            ratio = _extraction_error(bench, layers.pop(module), merged)
            worst, name = max((worst, name), (ratio, module))
        else:
            _require_merged_as_saved(bench, weights, full, plain[full], merged)
            kept += 1
    if layers:
        raise CheckFailedError(f"the merged model lacks {min(layers)}", MEND_MERGE)
    measured = {"largest_error_over_bound": worst, "module": name}
    if worst > 1.0:
        raise CheckFailedError(
            f"merged minus base gives back another update in {name}: {worst:.3g} times further "
            "from the file's than rounding explains",
            MEND_MERGE,
            measured,
        )
    return Held(
        message=f"merged minus base is each module's update again (at most {worst:.2g} of its "
        f"bound), and {kept} other tensors are the base's or the file's to the bit",
        measured=measured,
    )


def _require_promise(layer: LoraLayer, bound: lora.Array) -> None:
    """Where every bound is infinite, whatever was found would hold."""
    if not np.isfinite(bound).any():
        raise CheckFailedError(
            f"{layer.name} leaves the range of {layer.dtype} when it is merged, where nothing is "
            "promised",
            "gate the adapter with --phi3-dtype float32",
            outcome=Outcome.NOT_RUN,
        )


def _merge_bound(bench: Bench, layer: LoraLayer, weight: lora.Array) -> lora.Array:
    """The bound on each entry of a merged weight; its row norms are kept."""
    bound = lora.merge_bound(weight, layer.factors, layer.dtype)
    _ROW_BOUNDS.setdefault(bench, {})[layer.name] = np.linalg.norm(bound, axis=1)
    return bound


def _row_bounds(bench: Bench, layer: LoraLayer, weight: lora.Array) -> lora.Array:
    if layer.name not in _ROW_BOUNDS.get(bench, {}):
        _merge_bound(bench, layer, weight)
    return _ROW_BOUNDS[bench][layer.name]


def _extraction_error(bench: Bench, layer: LoraLayer, merged: "Tensor") -> float:
    """How far the extracted update is from the file's delta, over what rounding allows.

    With D = W' - W and V the row space of A, one step of subspace iteration gives Q from D·V and
    the factors Q (out, r) and Qᵀ·D (r, in). As QQᵀD is D's best approximation with columns in Q,
    and D·V·Vᵀ one of them, ‖QQᵀD - delta‖ <= 2·‖D - delta‖ <= 2·‖E‖ (Frobenius), where E is the
    merge's own bound. DoRA's m / ‖V‖ is divided out of each row first. A row with m = 0 has
    none, and one whose bound is infinite promises nothing: both are left out.
    """
    f, found = layer.factors, to_float64(merged)
    found = found.T if layer.is_embedding else found
    weight = layer.base_weight()
    delta, bound = lora.delta(f), _row_bounds(bench, layer, weight)
    _require_promise(layer, bound)
    rows = np.isfinite(bound) if f.magnitude is None else np.isfinite(bound) & (f.magnitude != 0)
    found, weight, delta, bound = found[rows], weight[rows], delta[rows], bound[rows]
    if f.magnitude is not None:
        back = np.linalg.norm(weight + delta, axis=1) / f.magnitude[rows]
        found, bound = found * back[:, None], bound * np.abs(back)
    difference = found - weight
    span = np.linalg.qr(f.A.T).Q
    basis = np.linalg.qr(difference @ span).Q
    error = float(np.linalg.norm(basis @ (basis.T @ difference) - delta))
    # What float64 itself rounds here, on matrices of this size.
    own = float(lora.gamma(sum(weight.shape), "float64")) * float(np.linalg.norm(found))
    return float(lora.ratios(np.array(error), np.array(2 * np.linalg.norm(bound) + own)))


def _require_merged_as_saved(
    bench: Bench, weights: SafetensorsFile, name: str, plain: "Tensor", merged: "Tensor"
) -> None:
    """Compare a tensor without factors: the file's, trained rows in the base's, the base's."""
    import torch

    whole = f"{PREFIX}{name}"
    expected, source = plain, "the base's"
    if whole in weights.tensors:
        expected, source = torch.from_numpy(weights.tensor(whole)).to(plain.dtype), "the file's"
    elif owner := _rows_owner(bench, name.rpartition(".")[0], weights.tensors):
        rows = torch.from_numpy(weights.tensor(tensor_name(owner, Part.TOKENS))).to(plain.dtype)
        expected, source = plain.clone(), "the base's with the file's rows"
        expected[list(_tokens_of(bench.config, owner))] = rows
    if not torch.equal(expected, merged):
        by = float(np.max(np.abs(to_float64(expected) - to_float64(merged))))
        raise CheckFailedError(
            f"merged, {name} differs from {source} by up to {by:.3g}",
            MEND_MERGE,
            {"tensor": name, "difference": by},
        )


def _rows_owner(bench: Bench, module: str, tensors: Container[str]) -> str:
    """The module under whose name the file has this module's trained rows; empty without any.

    A head that is tied to its table takes the table's rows, and has none of its own on file.
    """
    tied = bench.run.base(bench).model.config.tie_word_embeddings and module == "lm_head"
    for owner in (module, *(["model.embed_tokens"] if tied else [])):
        if tensor_name(owner, Part.TOKENS) in tensors:
            return owner
    return ""


def _tokens_of(config: LoraAdapterConfig, module: str) -> Sequence[int]:
    return next(
        tokens
        for name, tokens in config.trainable_token_indices.items()
        if matches_suffix(module, name)
    )


def base_is_unchanged_when_attached(bench: Bench) -> Held:
    """Every byte of the base is as before the adapter was attached."""
    _ = bench.tuned  # it must be attached for this to prove anything
    return _unchanged(bench, "attaching the adapter")


def base_restored_when_disabled(bench: Bench) -> Held:
    """With the adapter switched off, the logits are the base's own, to the bit."""
    expected = bench.run.probe_logits(bench)
    with bench.tuned.disable_adapter():
        found = bench.run.logits(bench, bench.tuned)
    difference = float(np.max(np.abs(found - expected)))
    if not difference == 0.0:
        raise CheckFailedError(
            f"with the adapter off, logits differ from the base's by up to {difference:.3g}",
            MEND_BASE,
            {"difference": difference},
        )
    return Held(message="with the adapter off, the logits are the base's to the bit")


def base_restored_when_unloaded(bench: Bench) -> Held:
    """After the adapter was unloaded, bytes and logits are the base's own.

    PEFT leaves a module of modules_to_save in the model that it gives back; the logits are
    compared with the base's own module in its place.
    """
    wrapper = part_of("peft", "peft.utils.other", "ModulesToSaveWrapper")
    expected = bench.run.probe_logits(bench)
    saved = [
        name
        for name, module in bench.tuned.get_base_model().named_modules()
        if isinstance(module, wrapper)
    ]
    plain, base = bench.detach(), bench.run.base(bench).model
    for name in saved:
        plain.set_submodule(name, base.get_submodule(name))
    difference = float(np.max(np.abs(bench.run.logits(bench, plain) - expected)))
    if not difference == 0.0:
        raise CheckFailedError(
            f"after unloading, logits differ from the base's by up to {difference:.3g}",
            MEND_BASE,
            {"difference": difference},
        )
    held = _unchanged(bench, "unloading the adapter")
    left = f" but for {len(saved)} whole modules that PEFT leaves in place" if saved else ""
    return Held(message=f"{held.message}, and the logits are the base's to the bit{left}")


def _unchanged(bench: Bench, act: str) -> Held:
    from phi3_lora_qa.models.checksum import checksum

    before, after = bench.run.checksum(bench), checksum(bench.run.base(bench).model)
    measured = {"before": before, "after": after}
    if before != after:
        raise CheckFailedError(f"{act} changed the base's weights", MEND_BASE, measured)
    return Held(message=f"{act} left every byte of the base as it was", measured=measured)
