"""A gate run plans, runs what was chosen, and judges what is missing."""

from pathlib import Path

from phi3_lora_qa.gate.gate_steps import GateRun, plan_gate, plan_jobs
from phi3_lora_qa.gate.private_copy import private_copies
from phi3_lora_qa.gate.run_check import run_check
from phi3_lora_qa.record import Verdict
from phi3_lora_qa.settings import DRAWN
from tests.gate.builders import make_settings


def test_a_plan_draws_an_order_once(good_adapter: Path, tmp_path: Path) -> None:
    plan = plan_gate(make_settings(good_adapter, tmp_path, stage=["static"]))
    assert plan.settings.sources["order"] == DRAWN
    again = plan_jobs(plan.settings, plan.jobs)
    assert again.settings.order == plan.settings.order
    assert [p.id for p in again.planned] == [p.id for p in plan.planned]


def test_every_check_that_did_not_run_is_missed(good_adapter: Path, tmp_path: Path) -> None:
    plan = plan_gate(make_settings(good_adapter, tmp_path, stage=["static"]))
    with private_copies(plan.jobs) as folder:
        run = GateRun.start(plan, plan.planned, folder)
        assert not run.is_partial
        for planned in run.chosen[1:]:
            run_check(planned, run.session)
        (reported,) = run.finish()
        assert reported.record.verdict is Verdict.INCOMPLETE
        assert not reported.accepted
        run_check(run.chosen[0], run.session)
        (reported,) = run.finish()
        assert reported.record.verdict is Verdict.PASS
        assert reported.accepted


def test_chosen_checks_are_partial(good_adapter: Path, tmp_path: Path) -> None:
    plan = plan_gate(make_settings(good_adapter, tmp_path, stage=["static"]))
    with private_copies(plan.jobs) as folder:
        run = GateRun.start(plan, plan.planned[:1], folder)
        assert run.is_partial
        run_check(run.chosen[0], run.session)
        (reported,) = run.finish()
    assert reported.record.verdict is Verdict.PARTIAL
