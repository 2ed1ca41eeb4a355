"""The adapter under test: what is linted is the private copy, with the user's listing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.gate.builders import MakeSession


def test_a_change_after_the_copy_is_not_seen(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    folder = adapter_copy("changed")
    adapter = make_session(folder).adapter
    before = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(before.replace('"r": ', '"r": 1'))
    assert f'"r": {adapter.config.r}' in before
    assert adapter.refusal == ""


def test_the_listing_has_files_that_were_not_copied(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    folder = adapter_copy("more")
    (folder / "optimizer.pt").write_bytes(b"never opened")
    adapter = make_session(folder).adapter
    assert "optimizer.pt" in adapter.folder.entries
    assert not (adapter.copy / "optimizer.pt").exists()


def test_a_refusal_names_the_rule(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    folder = adapter_copy("broken")
    (folder / "adapter_model.safetensors").write_bytes(b"no header")
    adapter = make_session(folder).adapter
    assert adapter.refusal.startswith("the static stage refused the adapter (")


def test_stored_factors_have_the_files_dtype(make_session: MakeSession) -> None:
    adapter = make_session().adapter
    assert adapter.stored_factors.keys() == adapter.factors.keys()
    name = min(adapter.factors)
    stored, factors = adapter.stored_factors[name], adapter.factors[name]
    assert (str(stored.A.dtype), str(factors.A.dtype)) == ("float32", "float64")
    assert np.array_equal(stored.A, factors.A)
