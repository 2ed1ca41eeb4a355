"""The whole checkpoint stage passes on a good adapter."""

import pytest

from phi3_lora_qa.gate.checks import checkpoint
from tests.gate.builders import MakeSession, passes

pytestmark = pytest.mark.slow


def test_checkpoint_passes_on_the_good_adapter(make_session: MakeSession) -> None:
    session = make_session()
    for check in checkpoint.checks():
        assert passes(check.run, session), check.name
