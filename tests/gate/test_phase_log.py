"""Phases are timed, and their tokens counted, for one adapter."""

from pathlib import Path

from phi3_lora_qa.gate.journal import Journal
from phi3_lora_qa.gate.phase_log import PhaseLog


def test_a_phase_has_its_time_and_tokens(tmp_path: Path) -> None:
    log = PhaseLog(journal=Journal(folder=tmp_path), adapter=3, name="a")
    with log.timed("score base", lambda: 100):
        pass
    with log.timed("load base"):
        pass
    log.add_environment({"threads": 2})
    scored, loaded, noted = log.journal.evidence()
    assert {piece.adapter for piece in (scored, loaded, noted)} == {3}
    (timing,) = scored.timings
    assert (timing.phase, timing.tokens) == ("score base", 100)
    assert timing.tokens_per_second == 100 / timing.seconds
    assert (loaded.timings[0].tokens, loaded.timings[0].tokens_per_second) == (0, 0.0)
    assert noted.environment == {"threads": 2}


def test_without_a_listener_progress_is_silent(tmp_path: Path) -> None:
    PhaseLog(journal=Journal(folder=tmp_path), adapter=0, name="a").on_progress("x", 1, 2)
