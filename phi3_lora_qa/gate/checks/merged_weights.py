"""Checkpoint stage, merging: the merged model is the base plus the update, and nothing else."""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.adapter.config import LoraAdapterConfig
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.adapter.tensor_names import PREFIX, Part, tensor_name
from phi3_lora_qa.gate.adapted_layers import LoraLayer
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    checks_of,
    failed,
    no_lora_module,
    not_run,
    passed,
)
from phi3_lora_qa.models.tensor_conversion import to_float64

if TYPE_CHECKING:
    from torch import Tensor


FIX_MERGE = "serve the adapter unmerged, or merge with a peft version that passes this check"


def checks() -> tuple[Check, ...]:
    """Return the checks on merging."""
    return checks_of("checkpoint", merged_matches_unmerged, adapter_comes_back_from_merged)


def merged_matches_unmerged(session: AdapterSession) -> CheckOutcome:
    """Module by module, PEFT's merged weight is W + delta within its rounding bound.

    Each layer is merged in a copy, so that only one layer is in memory twice. An adapter that
    cannot be merged passes if PEFT refuses to merge it; merging only a part of it is a fault.
    """
    layers = session.list_lora_layers()
    if not layers:
        return no_lora_module()
    if session.adapter.config.merge_refusal:
        return _merging_is_refused(layers, session.adapter.config.merge_refusal)
    largest, name = 0.0, ""
    for layer in layers:
        weight = layer.base_weight()
        expected = lora.merged_weight(weight, layer.factors)
        bound = _merge_bound(session, layer, weight)
        if fault := _require_bound(layer, bound):
            return fault
        ratio = float(np.max(lora.ratios(np.abs(layer.peft_merged() - expected), bound)))
        if ratio > largest:
            largest, name = ratio, layer.name
    measured = {"modules": len(layers), "largest_error_over_bound": largest, "module": name}
    if largest > 1.0:
        return failed(
            f"the merged weight of {name} differs from W + delta by {largest:.3g} times its "
            "rounding bound",
            FIX_MERGE,
            measured,
        )
    return passed(
        f"{len(layers)} modules merge within their bounds (the largest error is {largest:.2g} of "
        "its bound)",
        measured,
    )


def _merging_is_refused(layers: Sequence[LoraLayer], why: str) -> CheckOutcome:
    for layer in layers:
        try:
            layer.peft_merged()
        except RuntimeError as error:
            # PEFT names the option. Any other failure (such as a lack of memory) proves nothing.
            if "lora_bias" not in str(error):
                raise
            continue
        return failed(
            f"PEFT merges {layer.name} and drops a part of it: {why}",
            "serve the adapter unmerged, with a peft version that refuses to merge it",
            {"module": layer.name},
        )
    return passed(f"PEFT refuses to merge, as it should ({why}); serve the adapter unmerged")


def adapter_comes_back_from_merged(session: AdapterSession) -> CheckOutcome:
    """The merged model minus the base is the adapter's update, and nothing else.

    Each update is extracted from the difference as factors of its rank, and is the delta within
    the bound. Modules saved whole and trained token rows are in the merged model as in the file.
    Every other tensor equals the base's bit for bit. One tensor is merged at a time.
    """
    if session.adapter.config.merge_refusal:
        return passed(f"not applicable: {session.adapter.config.merge_refusal}")
    from phi3_lora_qa.models.merge import merged_tensors

    layers = {layer.name: layer for layer in session.list_lora_layers()}
    if not layers:
        return no_lora_module()
    base = session.load_base()
    plain, errors, unchanged = base.model.state_dict(), [(0.0, "")], 0
    for full, merged in merged_tensors(base, session.attach_adapter(), untied=True):
        module = full.rpartition(".")[0]
        if layer := layers.pop(module, None):
            fault = _require_bound(layer, _row_bounds(session, layer))
        else:
            fault = _compare_merged_as_saved(session, full, plain[full], merged)
        if fault:
            return fault
        if layer:
            error = _extraction_error(layer, merged, _row_bounds(session, layer))
            errors.append((error, module))
        else:
            unchanged += 1
    if layers:
        return failed(f"the merged model lacks {min(layers)}", FIX_MERGE)
    largest, name = max(errors)
    measured = {"largest_error_over_bound": largest, "module": name}
    if largest > 1.0:
        return failed(
            f"merged minus base is a different update in {name}: it differs from the file's by "
            f"{largest:.3g} times its rounding bound",
            FIX_MERGE,
            measured,
        )
    return passed(
        f"merged minus base equals each module's update (the largest error is {largest:.2g} of "
        f"its bound), and {unchanged} other tensors equal the base's or the file's bit for bit",
        measured,
    )


def _require_bound(layer: LoraLayer, bound: lora.Array) -> CheckOutcome | None:
    """Return an outcome if every bound is infinite: any error would pass."""
    if np.isfinite(bound).any():
        return None
    return not_run(
        f"{layer.name} exceeds the range of {layer.dtype} when it is merged, so no error bound "
        "applies",
        "gate the adapter with --phi3-dtype float32",
    )


def _merge_bound(session: AdapterSession, layer: LoraLayer, weight: lora.Array) -> lora.Array:
    """Return the bound on each entry of a merged weight; the session keeps its row norms."""
    bound = lora.merge_bound(weight, layer.factors, layer.dtype)
    session.merge_bound_norms[layer.name] = np.linalg.norm(bound, axis=1)
    return bound


def _row_bounds(session: AdapterSession, layer: LoraLayer) -> lora.Array:
    if layer.name not in session.merge_bound_norms:
        _merge_bound(session, layer, layer.base_weight())
    return session.merge_bound_norms[layer.name]


def _extraction_error(layer: LoraLayer, merged: "Tensor", row_bounds: lora.Array) -> float:
    """Return how far the extracted update is from the file's delta, over what rounding allows.

    With D = W' - W and V the row space of A, one step of subspace iteration gives Q from D·V and
    the factors Q (out, r) and Qᵀ·D (r, in). As QQᵀD is D's best approximation with columns in Q,
    and D·V·Vᵀ one of them, ‖QQᵀD - delta‖ <= 2·‖D - delta‖ <= 2·‖E‖ (Frobenius), where E is the
    merge's own bound. DoRA's m / ‖V‖ is divided out of each row first. A row with m = 0 has no
    update, and a row with an infinite bound proves nothing: both are left out.
    """
    f, found = layer.factors, to_float64(merged)
    found = found.T if layer.is_embedding else found
    weight = layer.base_weight()
    delta, bound = lora.delta(f), row_bounds
    rows = np.isfinite(bound) if f.magnitude is None else np.isfinite(bound) & (f.magnitude != 0)
    found, weight, delta, bound = found[rows], weight[rows], delta[rows], bound[rows]
    if f.magnitude is not None:
        back = np.linalg.norm(weight + delta, axis=1) / f.magnitude[rows]
        found, bound = found * back[:, None], bound * np.abs(back)
    difference = found - weight
    span = np.linalg.qr(f.A.T).Q
    basis = np.linalg.qr(difference @ span).Q
    error = float(np.linalg.norm(basis @ (basis.T @ difference) - delta))
    # The rounding of this computation in float64, on matrices of this size.
    own = float(lora.gamma(sum(weight.shape), "float64")) * float(np.linalg.norm(found))
    return float(lora.ratios(np.array(error), np.array(2 * np.linalg.norm(bound) + own)))


def _compare_merged_as_saved(
    session: AdapterSession, name: str, plain: "Tensor", merged: "Tensor"
) -> CheckOutcome | None:
    """Compare a tensor without factors with the file's or the base's (with trained rows)."""
    import torch

    weights = session.adapter.weights
    whole = f"{PREFIX}{name}"
    expected, source = plain, "the base's"
    if whole in weights.tensors:
        expected, source = torch.from_numpy(weights.tensor(whole)).to(plain), "the file's"
    elif owner := _rows_owner(session, name.rpartition(".")[0], weights.tensors):
        rows = torch.from_numpy(weights.tensor(tensor_name(owner, Part.TOKENS))).to(plain)
        expected, source = plain.clone(), "the base's with the file's rows"
        expected[list(_tokens_of(session.adapter.config, owner))] = rows
    if torch.equal(expected, merged):
        return None
    by = float(np.max(np.abs(to_float64(expected) - to_float64(merged))))
    return failed(
        f"merged, {name} differs from {source} by up to {by:.3g}",
        FIX_MERGE,
        {"tensor": name, "difference": by},
    )


def _rows_owner(session: AdapterSession, module: str, tensors: Container[str]) -> str:
    """Return the module under whose name the file has this module's trained rows, or ``""``.

    A head that is tied to its embedding takes the embedding's rows, and has none in the file.
    """
    tied = session.load_base().model.config.tie_word_embeddings and module == "lm_head"
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
