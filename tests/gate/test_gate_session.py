"""A gate session opens each adapter once; all share the models."""

from collections.abc import Callable
from pathlib import Path

from tests.gate.builders import make_gate_session, make_settings


def test_adapters_have_their_own_sessions_and_share_the_models(
    good_adapter: Path, adapter_copy: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = make_settings([good_adapter, adapter_copy("other")], tmp_path)
    session = make_gate_session(settings, tmp_path / "run", ("static", "math"))
    first, second = session.open_adapter(0), session.open_adapter(1)
    assert session.open_adapter(0) is first
    assert (first.log.adapter, second.log.adapter) == (0, 1)
    assert (first.job.name, second.job.name) == ("adapter", "other")
    assert first.adapter.copy != second.adapter.copy
    assert first.models is second.models is session.models
    assert first.stages == {"static", "math"}
