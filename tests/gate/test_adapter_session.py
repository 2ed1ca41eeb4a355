"""A session loads and attaches on request only, and scores the base before it attaches."""

from dataclasses import replace

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.models import loading
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession


def phases(session: AdapterSession) -> list[str]:
    return [t.phase for piece in session.log.journal.evidence() for t in piece.timings]


@pytest.mark.slow
def test_the_base_is_scored_before_the_adapter_is_attached(make_session: MakeSession) -> None:
    session = make_session()
    with quiet():
        session.attach_adapter()
        session.attach_adapter()
    assert phases(session) == ["load base", "score base", "attach adapter"]


def test_without_a_quality_check_the_base_is_not_scored(make_session: MakeSession) -> None:
    session = make_session(stages=("checkpoint",))
    with quiet():
        session.attach_adapter()
    assert phases(session) == ["load base", "attach adapter"]


def test_the_base_is_loaded_again_if_it_is_scored_after_an_adapter_was_attached(
    make_session: MakeSession,
) -> None:
    session = make_session(stages=("checkpoint", "export"))
    with quiet():
        session.attach_adapter()
        session.comparison.score_base()
        session.attach_adapter()
    first = ["load base", "attach adapter"]
    assert phases(session) == [*first, "load base", "score base", "attach adapter"]


def test_reading_files_loads_no_model(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)
    session = make_session()
    assert session.adapter.refusal == ""
    assert session.is_compared_with_base
    assert session.adapter.config.r
    assert session.adapter.factors
    assert session.comparison.config.limits == session.job.limits


def test_without_a_base_nothing_is_loaded(make_session: MakeSession) -> None:
    session = make_session()
    job = replace(session.job, base=None, base_missing="there is no base; set one")
    adapter = AdapterUnderTest(job, session.adapter.copy, session.adapter.selection)
    session = replace(session, adapter=adapter)
    with pytest.raises(BaseModelError, match="there is no base; set one"):
        session.load_base()


def test_modules_are_measured_once(make_session: MakeSession) -> None:
    session = make_session()
    with quiet():
        assert session.measure_modules() is session.measure_modules()
    assert phases(session) == ["measure modules"]
