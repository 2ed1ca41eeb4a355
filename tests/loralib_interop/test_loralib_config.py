"""Configs and layer descriptions that loralib would ignore or cannot represent are refused."""

from typing import Any

import pytest

from phi3_lora_qa import extras
from phi3_lora_qa.errors import InputError, MissingDependencyError
from phi3_lora_qa.loralib_interop import LayerSpec, LoralibConfig, require_loralib


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "Linear", "mask": (True,)}, "other layers take no mask"),
        ({"kind": "MergedLinear", "mask": (False,)}, r"at least one enabled block.*\[False\]"),
        ({"kind": "MergedLinear"}, r"at least one enabled block.*got \[\]"),
        ({"kind": "Embedding", "dropout": 0.1}, "silently ignores the dropout .*: got 0.1; set it"),
        ({"kind": "Conv2d", "dropout": 0.1}, "silently ignores the dropout"),
        ({"kind": "Linear", "rank": 0}, "rank must be at least 1: got 0"),
        ({"kind": "Linear", "rank": True}, "rank must be at least 1: got True"),
        ({"kind": "Linear", "alpha": float("inf")}, "alpha must be finite: got inf"),
        ({"kind": "Linear", "dropout": 1.0}, "below 1: got 1.0"),
    ],
)
def test_an_invalid_description_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LayerSpec(**{"name": "a", "rank": 1, "alpha": 1, **values})


def test_scaling_and_enabled_blocks_follow_from_the_description() -> None:
    merged = LayerSpec(name="a", kind="MergedLinear", rank=4, alpha=2, mask=(True, False, True))
    assert (merged.scaling, merged.enabled) == (0.5, 2)
    assert LayerSpec(name="a", kind="Linear", rank=4, alpha=2).enabled == 1


def test_an_unknown_bias_or_no_targets_are_refused() -> None:
    with pytest.raises(InputError, match="unknown bias: 'some'; use one of none, all, lora_only"):
        LoralibConfig(rank=1, alpha=1, targets=("o_proj",), bias="some")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are no targets"):
        LoralibConfig(rank=1, alpha=1, targets=())


def test_a_missing_loralib_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    require_loralib()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install .*\[loralib\]"):
        require_loralib()
