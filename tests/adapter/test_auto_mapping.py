"""The classes that auto_mapping may name, with and without a task type that makes it unread."""

from typing import Any

import pytest

from phi3_lora_qa.adapter.auto_mapping import check_auto_mapping
from phi3_lora_qa.adapter.config_problem import ProblemKind


def mapping(name: Any, library: Any = None, **further: Any) -> dict[str, Any]:
    return {"base_model_class": name, "parent_library": library, **further}


LANGUAGE_MODELS = [
    mapping("Phi3ForCausalLM", "transformers.models.phi3.modeling_phi3"),
    mapping("Phi3ForCausalLM", "transformers.models.phi3"),
    mapping(
        "MistralForCausalLM", "transformers.models.mistral.modeling_mistral", unsloth_fixed=True
    ),
    mapping("GPT2LMHeadModel", "transformers.models.gpt2.modeling_gpt2"),
    mapping("PeftModelForCausalLM", "peft.peft_model"),
    mapping("PeftModel", "peft.peft_model"),
    mapping("Phi3ForCausalLM", "transformers_modules.microsoft.Phi-3-mini-4k.0a1b2c.modeling_phi3"),
    mapping("Phi3ForCausalLM", "transformers_modules.my_phi.modeling_phi3"),
    {"base_model_class": "Phi3ForCausalLM"},
]
OTHER_CLASSES = [
    mapping("Phi3ForSequenceClassification", "transformers.models.phi3.modeling_phi3"),
    mapping("LlamaModel", "transformers.models.llama.modeling_llama"),
    mapping("ViTForImageClassification", "transformers.models.vit.modeling_vit"),
]
CODE = [
    mapping("system", "os"),
    mapping("Phi3ForCausalLM", "my_code"),
    mapping("Phi3ForCausalLM", "transformers.models.phi3.modeling_llama"),
    mapping("Phi3ForCausalLM", "transformers.models.phi3.modeling_phi3.evil"),
    mapping("Phi3ForCausalLM", "transformers_modules"),
    mapping("PeftModel", "peft"),
    mapping("os.system", "transformers.models.phi3.modeling_phi3"),
    mapping("Phi3ForCausalLM", "transformers.models.phi3", code="x.py"),
    mapping("Phi3ForCausalLM", 1),
    mapping(None, None),
    "Phi3ForCausalLM",
    ["transformers"],
]


@pytest.mark.parametrize("value", LANGUAGE_MODELS)
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_a_language_model_of_transformers_is_accepted(value: Any, task: str | None) -> None:
    assert check_auto_mapping(value, task) is None


@pytest.mark.parametrize("value", OTHER_CLASSES)
def test_another_class_matters_only_without_a_task_type(value: Any) -> None:
    assert check_auto_mapping(value, "CAUSAL_LM") is None
    found = check_auto_mapping(value, None)
    assert found is not None
    assert found.kind is ProblemKind.REFUSED
    assert value["base_model_class"] in found.message


@pytest.mark.parametrize("value", CODE)
def test_other_code_is_refused_where_it_is_loaded_and_noted_where_it_is_not(value: Any) -> None:
    read, unread = check_auto_mapping(value, None), check_auto_mapping(value, "CAUSAL_LM")
    assert read is not None
    assert unread is not None
    assert (read.kind, unread.kind) == (ProblemKind.REFUSED, ProblemKind.IGNORED)
    assert "nothing reads it" in unread.message


def test_pefts_own_loader_reads_the_mapping_only_without_a_task_type() -> None:
    import inspect

    from peft import auto

    source = inspect.getsource(auto)
    assert source.count('getattr(peft_config, "auto_mapping", None)') == 2
    assert 'elif task_type is None and getattr(peft_config, "auto_mapping", None)' in source
