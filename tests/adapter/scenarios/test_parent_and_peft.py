"""Training that continues from an adapter, with peft: frozen by default, and as the fix says."""

from pathlib import Path

import pytest

from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.registry import bundled

PARENT = bundled("tiny") / "adapter"


@pytest.mark.slow
@pytest.mark.parametrize("is_trainable", [False, True])
def test_the_fix_of_an_untrained_continuation_is_to_load_it_as_trainable(
    is_trainable: bool, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(bundled("tiny") / "base"))
    model = PeftModel.from_pretrained(base, str(PARENT), is_trainable=is_trainable)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    ids = torch.arange(5, 25).reshape(1, -1)
    loss = model(input_ids=ids, labels=ids).loss
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    model.save_pretrained(str(tmp_path))
    report = lint_adapter(tmp_path, parent=PARENT)
    found = {finding.rule for finding in report.findings if "parent" in finding.rule}
    assert found == (set() if is_trainable else {"values-parent-equal"})
    assert report.accepted == is_trainable
