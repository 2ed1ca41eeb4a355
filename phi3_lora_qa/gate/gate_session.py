"""One process's share of a gate run: it makes the session of each adapter, and owns the models."""

from collections.abc import Sequence
from pathlib import Path

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.machine_settings import on_this_machine
from phi3_lora_qa.gate.model_host import ModelHost
from phi3_lora_qa.gate.model_scorer import ModelScorer
from phi3_lora_qa.gate.phase_log import PhaseLog
from phi3_lora_qa.gate.prepare import AdapterJob, snapshot_of
from phi3_lora_qa.gate.quality_comparison import QualityComparison
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.setting_specs import STAGES, server_of
from phi3_lora_qa.settings import GateSettings


class GateSession:
    """The models, the adapters and the comparisons of one process that gates.

    Attributes:
        settings: The settings of the run, with the device and the dtype of this machine.
        jobs: The adapters to gate.
        folder: The private folder of the run.
        stages: The stages that have a check to run; only what these need is computed.
        journal: Where results are written.
        models: The models, shared by all adapters.
    """

    def __init__(
        self,
        settings: GateSettings,
        jobs: Sequence[AdapterJob],
        folder: Path,
        stages: frozenset[str] = frozenset(STAGES),
        on_progress: Progress = silent,
    ) -> None:
        settings = on_this_machine(settings)
        self.settings, self.jobs = settings, jobs
        self.folder, self.stages = folder, stages
        self.journal = Journal(folder=folder)
        self.models = ModelHost(settings)
        self._scorer = ModelScorer(settings, self.models)
        self._on_progress = on_progress
        self._adapters: dict[int, AdapterSession] = {}

    def open_adapter(self, index: int) -> AdapterSession:
        """Return the session of one adapter."""
        if index not in self._adapters:
            self._adapters[index] = self._new_session(index)
        return self._adapters[index]

    def _new_session(self, index: int) -> AdapterSession:
        job = self.jobs[index]
        adapter = AdapterUnderTest(
            job,
            snapshot_of(self.folder, index),
            selection_of(self.settings),
            _uses(self.stages, self.settings),
        )
        log = PhaseLog(
            journal=self.journal, adapter=index, name=job.name, on_progress=self._on_progress
        )
        comparison = QualityComparison(
            adapter,
            self.models,
            self._scorer,
            self.settings,
            log,
            scores_base_first="quality" in self.stages,
        )
        return AdapterSession(
            settings=self.settings,
            stages=self.stages,
            adapter=adapter,
            models=self.models,
            comparison=comparison,
            log=log,
        )


def _uses(stages: frozenset[str], settings: GateSettings) -> frozenset[BaseUse]:
    """Return what the stages do with the base; a server loads it elsewhere."""
    loading = stages - {"static"} - ({"quality"} if server_of(settings.backend) else set())
    answers = {BaseUse.ANSWERS} if "quality" in stages else set()
    return frozenset(answers | ({BaseUse.LOADING} if loading else set()))
