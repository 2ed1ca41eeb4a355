"""One base and one adapter at a time; a base is measured before anything is attached to it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.model_host import compute_probe_logits
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import bundled
from tests.gate.builders import MakeSession


def test_loading_a_base_that_cannot_be_loaded_is_tried_once(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import loading

    tried = []

    def refuse(*args: object) -> None:
        tried.append(args)
        raise BaseModelError("no such hub")

    monkeypatch.setattr(loading, "load_base", refuse)
    session = make_session()
    for _ in range(2):
        with pytest.raises(BaseModelError, match="no such hub"):
            session.load_base()
    assert len(tried) == 1


def test_the_base_is_loaded_once_and_one_adapter_is_attached_at_a_time(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    session, other = make_session(), make_session(adapter_copy("other"))
    models, ref, log = session.models, session.job.require_base(), session.log
    with quiet():
        base = models.load_base(ref, log)
        first = models.attach_adapter(ref, session.adapter.copy, log)
        assert models.attach_adapter(ref, session.adapter.copy, log) is first
        second = models.attach_adapter(ref, other.adapter.copy, log)
        assert second is not first
        assert models.attach_adapter(ref, session.adapter.copy, log) is not first
        assert models.load_base(ref, log) is base


def test_after_unloading_the_adapter_is_attached_again(make_session: MakeSession) -> None:
    session = make_session()
    with quiet():
        tuned = session.attach_adapter()
        plain = session.models.unload_adapter()
        assert not hasattr(plain, "peft_config")
        assert session.attach_adapter() is not tuned


def test_an_untouched_base_is_one_to_which_nothing_was_attached(make_session: MakeSession) -> None:
    session = make_session()
    ref = session.job.require_base()
    with quiet():
        base = session.models.load_untouched_base(ref, session.log)
        assert session.models.load_untouched_base(ref, session.log) is base
        session.models.attach_adapter(ref, session.adapter.copy, session.log)
        session.models.detach_adapter()
        again = session.models.load_untouched_base(ref, session.log)
        assert again is not base
        assert session.models.load_untouched_base(ref, session.log) is again


def test_checksum_and_probe_logits_are_those_of_the_base_alone(make_session: MakeSession) -> None:
    session = make_session()
    ref = session.job.require_base()
    with quiet():
        base = session.load_base()
        expected = compute_probe_logits(base.model, base.tokenizer)
        tuned = session.attach_adapter()
        assert np.array_equal(session.models.original_probe_logits(ref), expected)
        assert not np.array_equal(session.compute_probe_logits(tuned), expected)
        assert session.models.original_checksum(ref) == checksum(base.model)


def test_the_record_says_where_the_base_is_and_in_which_dtype(make_session: MakeSession) -> None:
    session = make_session(dtype="bfloat16")
    with quiet():
        session.load_base()
    notes: dict[str, object] = {}
    for piece in session.log.journal.evidence():
        notes |= piece.environment
    assert (notes["device"], notes["dtype"]) == ("cpu", "bfloat16")
    assert "device_name" not in notes


def test_a_base_that_changes_on_disk_during_the_run_is_refused(
    make_session: MakeSession, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(bundled("tiny") / "base", folder)
    session = make_session(base=str(folder))
    with quiet():
        session.load_base()
        session.models.release()
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][0] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BaseModelError, match="changed on disk during the run"):
            session.load_base()
