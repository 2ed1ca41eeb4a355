"""One decorator tests a user's own layer."""

import re
from pathlib import Path

import loralib
import peft
import pytest
import transformers

from phi3_lora_qa import strategies
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.properties import Layer, lora_properties

# What is first imported inside of pytester is dropped after it, and what torch and hypothesis keep
# of it does not survive that.
_ = loralib, peft, transformers, strategies

LAYER = """
import torch
from phi3_lora_qa.properties import TorchLayer, lora_properties

class MyLora(torch.nn.Module):
    def __init__(self, inside, out, r, alpha, dtype):
        super().__init__()
        self.base = torch.nn.Linear(inside, out, dtype=dtype).requires_grad_(False)
        self.lora_down = torch.nn.Parameter(torch.randn(r, inside, dtype=dtype))
        self.lora_up = torch.nn.Parameter(torch.zeros(out, r, dtype=dtype))
        self.scale = {scale}

    def forward(self, x):
        return self.base(x) + (x @ self.lora_down.T @ self.lora_up.T) * self.scale

class MyLayer(TorchLayer):
    unsupported = frozenset({{"build_with_dropout"}})

    def make_module(self, case, dropout):
        out, inside = case.weight.shape
        return MyLora(inside, out, case.factors.rank, case.alpha, getattr(torch, case.dtype))

    def parameter(self, part):
        base = self.module.base
        return {{"weight": base.weight, "base_bias": base.bias,
                "A": self.module.lora_down, "B": self.module.lora_up}}[part]

    @classmethod
    def cases(cls):
        from phi3_lora_qa.strategies import linear_cases
        return linear_cases(rslora=False, base_bias=True)

@lora_properties(MyLayer)
def test_my_layer(check):
    check()
"""


def test_a_correct_layer_passes_every_property_that_applies(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LAYER.format(scale="alpha / r"))
    result = pytester.runpytest_inprocess("-q")
    assert result.parseoutcomes().keys() == {"passed"}
    assert result.parseoutcomes()["passed"] >= 9


def test_a_wrong_scaling_fails_with_the_smallest_example(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LAYER.format(scale="alpha"))
    result = pytester.runpytest_inprocess("-q", "-k", "forward_adds_the_delta")
    assert result.ret == 1
    shown = result.stdout.str()
    assert "forward_adds_the_delta failed for MyLayer: the output is off by" in shown
    assert "but rounding allows" in shown
    # The smallest rank at which alpha / r is not alpha.
    assert "A=array([[1.0], [1.0]])" in shown or "A=array([[1.0, 1.0], [1.0, 1.0]])" in shown
    assert "rerun with: pytest" in shown
    assert "test_my_layer[forward_adds_the_delta]" in shown


@pytest.mark.parametrize(("scale", "outcome"), [("alpha", "xfailed"), ("alpha / r", "xpassed")])
def test_a_known_failure_is_expected(pytester: pytest.Pytester, scale: str, outcome: str) -> None:
    known = 'known_failures = {"forward_adds_the_delta": "we know"}\n    unsupported'
    pytester.makepyfile(LAYER.format(scale=scale).replace("unsupported", known, 1))
    result = pytester.runpytest_inprocess("-q", "-rxX", "-k", "forward_adds_the_delta")
    assert result.parseoutcomes().keys() - {"deselected"} == {outcome}
    assert result.ret == 0
    assert "we know" in result.stdout.str()


PAGE = Path(__file__).parents[2] / "docs" / "how-to-layers.md"
MODULE = """
class MyLoraLinear(torch.nn.Module):
    def __init__(self, inside, out, r, alpha, dtype):
        super().__init__()
        frozen = torch.zeros(out, inside, dtype=dtype)
        self.weight = torch.nn.Parameter(frozen, requires_grad=False)
        self.lora_a = torch.nn.Parameter(torch.randn(r, inside, dtype=dtype))
        self.lora_b = torch.nn.Parameter(torch.zeros(out, r, dtype=dtype))
        self.scale, self.merged = alpha / r, False

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.merged else y + (x @ self.lora_a.T @ self.lora_b.T) * self.scale

    def merge(self):
        if not self.merged:
            self.weight.data += self.scale * (self.lora_b @ self.lora_a)
        self.merged = True
"""


def test_the_example_on_the_page_passes_for_a_correct_layer(pytester: pytest.Pytester) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    pytester.makepyfile(f"{example}\n{MODULE}")
    result = pytester.runpytest_inprocess("-q")
    assert result.parseoutcomes().keys() == {"passed", "skipped"}  # row norms are DoRA's alone
    assert result.parseoutcomes()["passed"] >= 12


def test_a_missing_parameter_is_named_with_a_fix(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(LAYER.format(scale="alpha / r").replace('"base_bias": base.bias,', ""))
    result = pytester.runpytest_inprocess("-q", "-k", "forward_adds_the_delta")
    shown = result.stdout.str()
    assert (
        "MyLayer has no parameter 'base_bias' ('base_bias'); return it from parameter(), or"
        in shown
    )
    assert "def run_property" not in shown
    assert "result = run_property(" not in shown


def test_a_class_that_is_not_a_layer_is_refused() -> None:
    class Nothing(Layer):
        unsupported = frozenset({"forward"})

    with pytest.raises(InputError, match="no property applies to Other"):
        lora_properties(type("Other", (), {}))
