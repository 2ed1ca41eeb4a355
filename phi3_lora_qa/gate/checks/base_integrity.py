"""Checkpoint stage, the base: attaching, disabling and unloading an adapter do not change it."""

from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    checks_of,
    failed,
    passed,
)
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    pass


FIX_BASE = (
    "the adapter rewrites the base; save it again as plain LoRA (init_lora_weights true, no "
    "modules except LoRA's factors)"
)


def checks() -> tuple[Check, ...]:
    """Return the checks on the base."""
    return checks_of(
        "checkpoint",
        base_is_unchanged_when_attached,
        base_restored_when_disabled,
        base_restored_when_unloaded,
    )


def base_is_unchanged_when_attached(session: AdapterSession) -> CheckOutcome:
    """Attaching the adapter leaves every byte of the base unchanged."""
    session.attach_adapter()
    return _compare_checksum(session, "attaching the adapter")


def base_restored_when_disabled(session: AdapterSession) -> CheckOutcome:
    """With the adapter disabled, the logits equal the base's bit for bit."""
    with session.attach_adapter().disable_adapter():
        found = session.compute_probe_logits(session.attach_adapter())
    return _compare_logits(session, found, "with the adapter disabled") or passed(
        "with the adapter disabled, the logits equal the base's bit for bit"
    )


def base_restored_when_unloaded(session: AdapterSession) -> CheckOutcome:
    """After the adapter is unloaded, bytes and logits equal the base's. It stays unloaded.

    PEFT leaves modules of modules_to_save in the model that it returns; the logits are compared
    with the base's modules in their place.
    """
    wrapper = part_of("peft", "peft.utils.other", "ModulesToSaveWrapper")
    tuned = session.attach_adapter()
    saved = [
        name
        for name, module in tuned.get_base_model().named_modules()
        if isinstance(module, wrapper)
    ]
    plain, base = session.models.unload_adapter(), session.load_base().model
    for name in saved:
        plain.set_submodule(name, base.get_submodule(name))
    found = session.compute_probe_logits(plain)
    if fault := _compare_logits(session, found, "after unloading"):
        return fault
    outcome = _compare_checksum(session, "unloading the adapter")
    if outcome.outcome is not Outcome.PASSED:
        return outcome
    left = f", except {len(saved)} whole modules that PEFT leaves in place" if saved else ""
    message = f"{outcome.message}, and the logits equal the base's bit for bit{left}"
    return passed(message)


def _compare_logits(session: AdapterSession, found: lora.Array, when: str) -> CheckOutcome | None:
    expected = session.models.original_probe_logits(session.job.require_base())
    difference = float(np.max(np.abs(found - expected)))
    if difference == 0.0:
        return None
    return failed(
        f"{when}, logits differ from the base's by up to {difference:.3g}",
        FIX_BASE,
        {"difference": difference},
    )


def _compare_checksum(session: AdapterSession, act: str) -> CheckOutcome:
    from phi3_lora_qa.models.checksum import checksum

    before = session.models.original_checksum(session.job.require_base())
    after = checksum(session.load_base().model)
    measured = {"before": before, "after": after}
    if before != after:
        return failed(f"{act} changed the base's weights", FIX_BASE, measured)
    return passed(f"{act} left every byte of the base unchanged", measured)
