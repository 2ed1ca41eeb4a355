"""Refuses a run whose models cannot fit into the memory, before anything is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.errors import BaseModelError, MachineError, escape
from phi3_lora_qa.gate.prepare import AdapterJob
from phi3_lora_qa.models.free_memory import free_bytes
from phi3_lora_qa.models.model_size import ModelSize, model_size
from phi3_lora_qa.scoring.batches import MIN_TOKENS
from phi3_lora_qa.setting_specs import CPU, CUDA, UNQUANTIZED, server_of
from phi3_lora_qa.settings import GateSettings

_LOADED = ("checkpoint", "quality", "export")
"""The stages that load a whole model; the math stage reads one tensor of the base at a time."""

_WITHOUT_WHOLE_BASE = ("static", "math", "quality")
"""The stages that need no base that is not quantized."""


def require_memory(jobs: Sequence[AdapterJob], settings: GateSettings) -> None:
    """Raise if a base certainly does not fit into the free memory of its device.

    The estimate is a lower bound: the weights, the adapter, and the keys and values of the smallest
    batch. A base that is not on this machine is not estimated.

    Args:
        jobs: The adapters with their bases.
        settings: The settings, with the device and the dtype of this machine.

    Raises:
        MachineError: It does not fit; the message has the sizes and the options that would help.
    """
    free = None
    for job in jobs:
        files = _files_of(job)
        if files is None:
            continue
        for quantization, stages in _loads(settings).items():
            free = free_bytes(settings.device) if free is None else free
            need = _Need(job, files, settings, quantization)
            if free is not None and need.total > free:
                raise MachineError(_too_large(need, stages, free))


def needed_bytes(job: AdapterJob, settings: GateSettings, quantization: str) -> int:
    """Return the least bytes that a job's base and adapter need; 0 if they are not known."""
    files = _files_of(job)
    return _Need(job, files, settings, quantization).total if files else 0


def as_gigabytes(size: int) -> str:
    """Return a size in bytes for people, such as ``7.6 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"


def _files_of(job: AdapterJob) -> BaseFiles | None:
    if job.base is None or job.base.folder is None:
        return None
    try:
        return BaseFiles.open(job.base.folder)
    except BaseModelError:
        return None  # loading says what is wrong with it


def _loads(settings: GateSettings) -> Mapping[str, Sequence[str]]:
    """Return which stages load the base with which quantization."""
    loads: dict[str, list[str]] = {}
    for stage in (stage for stage in _LOADED if stage in settings.stage):
        if stage != "quality":
            loads.setdefault(UNQUANTIZED, []).append(stage)
        elif not server_of(settings.backend):
            loads.setdefault(settings.quantization, []).append(stage)
    return loads


@dataclass(frozen=True)
class _Need:
    """What a base needs under some settings."""

    job: AdapterJob
    files: BaseFiles
    settings: GateSettings
    quantization: str

    @cached_property
    def size(self) -> ModelSize:
        """The size of the base."""
        return model_size(self.files, self.settings.dtype, self.quantization)

    @cached_property
    def cache(self) -> int:
        """The bytes of the keys and values of the smallest batch."""
        return self.size.token * MIN_TOKENS

    @cached_property
    def adapter(self) -> int:
        """The bytes of the adapter's file."""
        try:
            return (self.job.source / WEIGHTS).stat().st_size
        except OSError:
            return 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.size.weights + self.cache + self.adapter


def _too_large(need: _Need, stages: Sequence[str], free: int) -> str:
    options = [f"{option} (needs {as_gigabytes(size)})" for option, size in _smaller(need)]
    options.append("--phi3-stage static --phi3-stage math, which load no model")
    base, device = need.job.require_base(), need.settings.device
    where = "this machine" if device == CPU else f"the device {device}"
    return (
        f"the base {escape(base.id, 100)} does not fit into the memory: the stages "
        f"{', '.join(stages)} need at least {as_gigabytes(need.total)} "
        f"({as_gigabytes(need.size.weights)} of weights, {as_gigabytes(need.cache)} for the keys "
        f"and values of {MIN_TOKENS} tokens, {as_gigabytes(need.adapter)} of adapter), and {where} "
        f"has {as_gigabytes(free)} free; free some, or use {', or '.join(options)}"
    )


def _smaller(need: _Need) -> Iterator[tuple[str, int]]:
    """Yield options with which everything fits, and the bytes that it then needs."""
    settings, changes = need.settings, []
    if settings.dtype == "float32":
        changes.append(("--phi3-dtype bfloat16", replace(settings, dtype="bfloat16")))
    if settings.device.startswith(f"{CUDA}:"):
        changes.append((f"--phi3-device {CUDA}", replace(settings, device=CUDA)))
    if settings.device != CPU:
        option = f"--phi3-device {CPU} --phi3-dtype {settings.dtype}"
        changes.append((option, replace(settings, device=CPU)))
    if "quality" in settings.stage:
        kind = "nf4" if settings.quantization == UNQUANTIZED else settings.quantization
        option = " ".join(f"--phi3-stage {stage}" for stage in _WITHOUT_WHOLE_BASE)
        small = replace(settings, quantization=kind, stage=_WITHOUT_WHOLE_BASE)
        changes.append((f"--phi3-quantization {kind} {option}", small))
    for option, changed in changes:
        sizes = [
            _Need(need.job, need.files, changed, quantization).total
            for quantization in _loads(changed)
        ]
        free = free_bytes(changed.device)
        if free is not None and sizes and max(sizes) <= free:
            yield option, max(sizes)
