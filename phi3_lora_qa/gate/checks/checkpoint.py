"""Checkpoint stage: the adapter survives saving and merging, and the base survives the adapter."""

import tempfile

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.keys import Part
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.gate.factors import weights_of
from phi3_lora_qa.gate.layers import lora_layers

MEND_BASE = (
    "the adapter rewrites the base; save it again as plain LoRA (init_lora_weights true, no "
    "modules beside LoRA's own factors)"
)


def checks() -> tuple[Check, ...]:
    """Return the stage's checks."""
    return tuple(
        check_of("checkpoint", function)
        for function in (
            saved_and_loaded_is_bit_exact,
            merged_matches_unmerged,
            base_is_unchanged_when_attached,
            base_is_back_when_disabled,
            base_is_back_when_unloaded,
        )
    )


def saved_and_loaded_is_bit_exact(bench: Bench) -> Held:
    """What PEFT saves again holds the same tensors, value for value.

    Copies of the base's own tables are left out: whether PEFT writes them is an option of saving.
    """
    original = weights_of(bench.folder)
    own = sorted(name for name in original.tensors if not name.endswith(f".{Part.BASE_WEIGHT}"))
    with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder:
        bench.tuned.save_pretrained(folder, save_embedding_layers=False)
        again = weights_of(AdapterFolder.open(folder))
        missing = sorted(set(own) ^ set(again.tensors))
        if missing:
            raise CheckFailedError(
                f"saving gives other tensors than the file holds: {missing[0]}"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                f"load and save the adapter once with the installed peft; look at {WEIGHTS}",
                {"tensors": missing[:20]},
            )
        changed = [
            name for name in own if not np.array_equal(original.tensor(name), again.tensor(name))
        ]
    if changed:
        raise CheckFailedError(
            f"{len(changed)} tensors change when the adapter is saved and loaded: {changed[0]}",
            "train and save with the same peft version that serves the adapter",
            {"tensors": changed[:20]},
        )
    return Held(message=f"{len(own)} tensors came back value for value")


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
        allowed = lora.merge_bound(weight, layer.factors, layer.dtype)
        ratio = float(np.max(lora.ratios(np.abs(layer.peft_merged() - expected), allowed)))
        if ratio > worst:
            worst, name = ratio, layer.name
        count += 1
    measured = {"modules": count, "largest_error_over_bound": worst, "module": name}
    if worst > 1.0:
        raise CheckFailedError(
            f"merging {name} gives a weight {worst:.3g} times further from W + delta than rounding "
            "explains",
            "serve the adapter unmerged, or merge with a peft version that passes this check",
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


def base_is_unchanged_when_attached(bench: Bench) -> Held:
    """Every byte of the base is as before the adapter was attached."""
    _ = bench.tuned  # it must be attached for this to prove anything
    return _unchanged(bench, "attaching the adapter")


def base_is_back_when_disabled(bench: Bench) -> Held:
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


def base_is_back_when_unloaded(bench: Bench) -> Held:
    """After the adapter was unloaded, bytes and logits are the base's own.

    PEFT leaves a module of modules_to_save in the model that it gives back; the logits are
    compared with the base's own module in its place.
    """
    from peft.utils.other import ModulesToSaveWrapper

    expected = bench.run.probe_logits(bench)
    saved = [
        name
        for name, module in bench.tuned.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
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
