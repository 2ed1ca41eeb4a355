"""Builds adapter sessions as the gate does, and runs single checks on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.check import CheckFunction, CheckOutcome, conclude
from phi3_lora_qa.gate.gate_session import GateSession
from phi3_lora_qa.gate.model_scorer import ModelScorer
from phi3_lora_qa.gate.paired_scores import SkippedItem
from phi3_lora_qa.gate.prepare import prepare, snapshot
from phi3_lora_qa.gate.quality_comparison import QualityComparison
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.record import ItemRow, Outcome
from phi3_lora_qa.setting_specs import STAGES
from phi3_lora_qa.settings import GateSettings, resolve

MakeSession = Callable[..., AdapterSession]


def make_settings(adapter: Path | list[Path], directory: Path, **options: object) -> GateSettings:
    """Return settings with the tiny base, no cache and no early stopping, and with options."""
    common = {"base": "tiny", "cache_scores": "off", "early_stop": "off"}
    adapters = adapter if isinstance(adapter, list) else [adapter]
    return resolve({"adapter": adapters, **common, **options}, {}, {}, directory, directory)


def make_gate_session(
    settings: GateSettings, folder: Path, stages: Sequence[str] = STAGES
) -> GateSession:
    """Return a gate session with copies of its adapters in a new folder."""
    folder.mkdir()
    jobs = prepare(settings)
    snapshot(jobs, folder)
    return GateSession(settings, jobs, folder, frozenset(stages))


def run_quietly(check: CheckFunction, session: AdapterSession) -> CheckOutcome:
    """Run a check while other libraries are silenced."""
    with quiet():
        return conclude(check, session)


def fails(check: CheckFunction, session: AdapterSession) -> CheckOutcome:
    """Return the outcome of a check that does not pass, and says how to fix it."""
    outcome = run_quietly(check, session)
    assert outcome.outcome is not Outcome.PASSED, outcome.message
    assert outcome.fix
    return outcome


def passes(check: CheckFunction, session: AdapterSession) -> str:
    """Return the message of a check that passes."""
    outcome = run_quietly(check, session)
    assert outcome.outcome is Outcome.PASSED, outcome.message
    return outcome.message


def attached(session: AdapterSession) -> AdapterSession:
    """Attach the adapter, before a fault is planted in what attaches it."""
    with quiet():
        session.attach_adapter()
    return session


def with_factors(session: AdapterSession, factors: Mapping[str, Factors]) -> AdapterSession:
    """Return a session whose adapter has other factors on file."""

    class OtherFactors(AdapterUnderTest):
        @cached_property
        def factors(self) -> Mapping[str, Factors]:
            return factors

    adapter = session.adapter
    return replace(session, adapter=OtherFactors(adapter.job, adapter.copy, adapter.selection))


def with_rows(session: AdapterSession, rows: Sequence[ItemRow]) -> AdapterSession:
    """Return a session in which these rows were scored."""

    class OtherRows(QualityComparison):
        def compare_items(self) -> tuple[ItemRow, ...]:
            return tuple(rows)

        def list_skipped(self) -> tuple[SkippedItem, ...]:
            return ()

    settings, models = session.settings, session.models
    comparison = OtherRows(
        session.adapter,
        models,
        ModelScorer(settings, models),
        settings,
        session.log,
        scores_base_first=False,
    )
    return replace(session, comparison=comparison)
