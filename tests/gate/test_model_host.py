"""One base and one adapter at a time; a base is measured before anything is attached to it."""

import pytest

from phi3_lora_qa.errors import BaseModelError
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
