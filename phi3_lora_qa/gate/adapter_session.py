"""One adapter in the gate: its files, its models and its comparison. Checks work on a session."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.gate.adapted_layers import LoraLayer, lora_layers
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.journal import Evidence
from phi3_lora_qa.gate.model_host import ModelHost, compute_probe_logits
from phi3_lora_qa.gate.phase_log import PhaseLog
from phi3_lora_qa.gate.prepare import AdapterJob
from phi3_lora_qa.gate.quality_comparison import QualityComparison
from phi3_lora_qa.lora import Array
from phi3_lora_qa.record import Spectrum
from phi3_lora_qa.settings import GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.gate.module_stats import ModuleStats
    from phi3_lora_qa.models.loading import LoadedBase


@dataclass(kw_only=True, eq=False)
class AdapterSession:
    """The state that the checks of one adapter share.

    Attributes:
        settings: The settings of the run.
        stages: The stages that have a check to run.
        adapter: The adapter's files.
        models: The models of the run.
        comparison: The comparison of base and tuned model.
        log: Where the work is logged.
        merge_bound_norms: The row norms of the rounding bound on each merged weight, by module.
            Two checks need them, and they take longer to compute than the merge.
    """

    settings: GateSettings
    stages: frozenset[str]
    adapter: AdapterUnderTest
    models: ModelHost
    comparison: QualityComparison
    log: PhaseLog
    merge_bound_norms: dict[str, Array] = field(default_factory=dict)
    _modules: "Sequence[ModuleStats] | None" = field(default=None, init=False)

    @property
    def job(self) -> AdapterJob:
        """The job: what to gate, with which base and items."""
        return self.adapter.job

    @property
    def is_compared_with_base(self) -> bool:
        """Whether the adapter's tensors are compared with a base.

        A base that is not on this machine is downloaded if a stage of the run loads it. If a server
        scores, it compares every name and shape.
        """
        base = self.job.base
        return base is not None and (base.folder is not None or self.stages != {"static"})

    def load_base(self) -> "LoadedBase":
        """Return the adapter's base, loaded.

        Raises:
            BaseModelError: There is no base, or it cannot be loaded.
        """
        return self.models.load_base(self.job.require_base(), self.log)

    def attach_adapter(self) -> Any:
        """Return the base with the adapter attached.

        Raises:
            BaseModelError: There is no base, or it cannot be loaded.
            AdapterError: The adapter cannot be attached.
        """
        return self.comparison.attach_adapter()

    def compute_probe_logits(self, model: Any) -> Array:
        """Return a model's logits on the probe text, float64 (tokens, vocabulary)."""
        return compute_probe_logits(model, self.load_base().tokenizer)

    def list_lora_layers(self) -> list[LoraLayer]:
        """Return every adapted module of the attached model, with its factors on file.

        Raises:
            AdapterError: The file has factors for a module that PEFT does not adapt.
        """
        return lora_layers(self.attach_adapter(), self.adapter.factors)

    def measure_modules(self) -> "Sequence[ModuleStats]":
        """Return the math stage's measurements of every adapted module; measured on the first call.

        The weights are read from the base's files, one module after another. A base without files
        on this machine (a hub id) is loaded as a model.

        Raises:
            AdapterError: The file has factors for a module that PEFT does not adapt.
            BaseModelError: There is no base, or it cannot be read.
        """
        from phi3_lora_qa.gate.module_stats import measure_modules
        from phi3_lora_qa.gate.weight_streaming import is_on_disk, stream_layers

        if self._modules is None:
            base, factors = self.job.base, self.adapter.factors
            with self.log.timed("measure modules"):
                self._modules = measure_modules(
                    stream_layers(base, self.adapter, self.settings.dtype)
                    if base and is_on_disk(base)
                    else self.list_lora_layers(),
                    sorted(factors),
                    seed=self.settings.seed,
                    on_progress=self.log.on_progress,
                )
        return self._modules

    def add_spectra(self, spectra: Sequence[Spectrum]) -> None:
        """Add the modules' spectra to the record."""
        self.log.journal.add_evidence(Evidence(adapter=self.log.adapter, spectra=spectra))
