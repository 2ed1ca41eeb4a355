"""A base that an adapter changes is found: attached, disabled and unloaded."""

from collections.abc import Callable
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import base_integrity
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession, fails

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "check",
    [
        base_integrity.base_is_unchanged_when_attached,
        base_integrity.base_restored_when_disabled,
        base_integrity.base_restored_when_unloaded,
    ],
)
def test_a_base_that_was_changed_is_found(
    make_session: MakeSession, check: Callable[..., Any]
) -> None:
    import torch

    session = make_session()
    with quiet(), torch.no_grad():
        session.attach_adapter()
        session.load_base().model.model.layers[0].mlp.down_proj.weight[0].add_(0.5)
    outcome = fails(check, session)
    assert "base" in outcome.message or "logits" in outcome.message
