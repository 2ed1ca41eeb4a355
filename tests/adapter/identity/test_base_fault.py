"""An adapter for another base is refused with one finding; one that fits is not."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.finding import Finding
from tests.adapter.adapters import P, plain
from tests.adapter.identity.published import (
    FUSED,
    SPLIT,
    errors,
    layers,
    lint_folder,
    only_error,
    published,
)
from tests.adapter.tiny_base import HIDDEN, MIDDLE, MODEL_CONFIG, write_base

WIDTHS = {
    "q_proj": (HIDDEN, HIDDEN), "k_proj": (HIDDEN, 16), "v_proj": (HIDDEN, 16),
    "o_proj": (HIDDEN, HIDDEN), "gate_proj": (HIDDEN, MIDDLE), "up_proj": (HIDDEN, MIDDLE),
    "down_proj": (MIDDLE, HIDDEN),
}  # fmt: skip
"""The sizes of the tiny base in Llama's layout."""

OTHERS = [
    ("unsloth/qwen2.5-7b-instruct-bnb-4bit", layers(*SPLIT), "(a Qwen2)", True),
    ("TinyLlama/TinyLlama-1.1B", layers("self_attn.o_proj", "mlp.down_proj"), "(a Llama)", True),
    ("THUDM/glm-4-9b", layers("self_attn.o_proj", "mlp.gate_up_proj"), "(a ChatGLM)", False),
    ("google/gemma-2-2b-it", layers("self_attn.q_proj"), "(a Gemma 2)", True),
    ("/home/me/qwen", layers(*SPLIT), "(a Qwen)", True),
    ("Qwen/Qwen-7B", ["transformer.h.0.attn.c_attn"], "(a Qwen)", False),
    ("tiiuae/Falcon3-1B-Base", layers(*SPLIT), "(a Llama)", True),
    ("microsoft/phi-2", layers("self_attn.q_proj", "mlp.fc1"), "phi-2", False),
    ("gpt2", ["transformer.h.0.attn.c_attn"], "(a GPT-2)", False),
    ("facebook/bart-base", ["model.encoder.layers.0.self_attn.q_proj"], "bart-base", False),
    (None, ["gpt_neox.layers.0.attention.query_key_value"], "a model like GPT-NeoX", False),
    ("/data/x", ["vit.encoder.layer.0.attention.attention.query"], "a vision model", False),
    ("microsoft/Phi-3-small-8k-instruct", layers("self_attn.query_key_value"), "small", False),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """The config of a base in Llama's layout with the tiny base's sizes."""
    folder = tmp_path / "split"
    folder.mkdir()
    config = MODEL_CONFIG | {"model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(found: Finding) -> str:
    assert found.rule == "config-other-base"
    assert "convert fuse" not in found.fix
    return f"{found.message}; {found.fix}"


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize(("name", "modules", "shown", "is_supported"), OTHERS)
def test_another_base_is_the_only_finding(
    name: str | None,
    modules: list[str],
    shown: str,
    is_supported: bool,
    based: bool,
    base: Path,
    tmp_path: Path,
) -> None:
    folder = published(name, modules, WIDTHS).save(tmp_path)
    text = refused(only_error(lint_folder(folder, base if based else None)))
    assert shown in text
    assert ("--any-base" in text) is is_supported
    assert (name or "modules are named") in text or "its module is named" in text
    accepted = lint_folder(folder, any_base=True)
    assert accepted.accepted is is_supported, errors(accepted)


@pytest.mark.parametrize("name", ["/home/me/Transformer", "", None, "acme/helpdesk-1b"])
def test_llamas_layout_without_a_word_of_phi_is_refused_unless_any_base_may_be_meant(
    name: str | None, base: Path, tmp_path: Path
) -> None:
    modules = layers("self_attn.q_proj", "self_attn.v_proj")
    folder = published(name, modules, {"q_proj": (64, 64), "v_proj": (64, 64)}).save(tmp_path)
    assert "Llama's layout" in refused(only_error(lint_folder(folder)))
    assert "of this check" in refused(only_error(lint_folder(folder, base)))
    assert lint_folder(folder, any_base=True).accepted


@pytest.mark.parametrize(
    "name", ["unsloth/Phi-3.5-mini-instruct", "unsloth/phi-4-unsloth-bnb-4bit", "/x/phi-3/base"]
)
def test_a_phi_in_llamas_layout_is_accepted_and_its_layout_assumed(
    name: str, base: Path, tmp_path: Path
) -> None:
    folder = published(name, layers(*SPLIT), WIDTHS).save(tmp_path)
    assert lint_folder(folder).accepted
    found = only_error(lint_folder(folder, base))
    assert found.rule == "config-other-base"
    assert "convert fuse" in found.fix


def test_a_fault_in_llamas_layout_is_found_without_a_base(tmp_path: Path) -> None:
    adapter = published("unsloth/phi-4", layers(*SPLIT), WIDTHS)
    name = f"{P}model.layers.1.self_attn.k_proj.lora_B.weight"
    adapter.tensors[name] = adapter.array(name)[:-1]
    assert {f.rule for f in errors(lint_folder(adapter.save(tmp_path)))} == {"tensors-shape"}


def test_split_projections_for_microsofts_phi_have_the_wrong_layout(tmp_path: Path) -> None:
    adapter = published("microsoft/Phi-3-mini-4k-instruct", layers(*SPLIT), WIDTHS)
    assert "convert fuse" in only_error(lint_folder(adapter.save(tmp_path))).fix


def test_a_phi_of_another_size_in_another_layout_is_called_that(base: Path, tmp_path: Path) -> None:
    adapter = published("unsloth/phi-4", layers(*SPLIT))
    assert "another Phi-3" in only_error(lint_folder(adapter.save(tmp_path), base)).message


def test_a_base_in_llamas_layout_takes_its_own_adapter_only(llama: Path, tmp_path: Path) -> None:
    def found(name: str | None, *modules: str) -> list[Finding]:
        adapter = published(name, layers(*modules), WIDTHS)
        folder = adapter.save(tmp_path / (name or "none").replace("/", "-"))
        return errors(lint_folder(folder, llama, any_base=True))

    assert found("meta-llama/Llama-3.2-1B", *SPLIT) == []
    assert found("acme/x", *SPLIT) == []
    assert found("acme/phi-3-llamafied", *SPLIT) == []
    (qwen,) = found("Qwen/Qwen2.5-0.5B", *SPLIT)
    assert "not for the Llama of this check" in qwen.message
    (fused,) = found("microsoft/phi-4", *FUSED)
    assert fused.rule == "config-other-base"


def test_a_base_that_the_user_accepted_may_have_phis_template(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer_config.json").write_text('["<|assistant|>", "<|end|>"]')
    adapter = published("meta-llama/Llama-3.2-1B", layers(*SPLIT), WIDTHS)
    folder = adapter.save(tmp_path / "own")
    assert "--any-base" in only_error(lint_folder(folder, llama)).fix
    assert not lint_folder(folder, llama, any_base=True).findings
    other = published("Qwen/Qwen2.5-0.5B", layers(*SPLIT), WIDTHS).save(tmp_path / "other")
    assert only_error(lint_folder(other, llama, any_base=True)).rule == "config-other-base"


@pytest.mark.parametrize("name", ["Qwen/Qwen3-4B", "meta-llama/Llama-3-8B"])
def test_another_familys_id_of_an_adapter_with_phis_modules_is_named(
    name: str, tmp_path: Path
) -> None:
    report = lint_folder(published(name, layers(*FUSED)).save(tmp_path))
    (finding,) = (f for f in report.findings if f.rule == "config-base-source")
    assert finding.message == f"the config names {name}, which is not a Phi-3, judging by its name"
    assert finding.fix.endswith("the base that it was trained on")


def test_a_phi_in_llamas_layout_does_not_take_phis_own(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer_config.json").write_text('["<|assistant|>", "<|end|>"]')
    folder = published("microsoft/phi-4", layers(*FUSED)).save(tmp_path / "a")
    assert "Phi-3's own layout" in only_error(lint_folder(folder, llama)).message


def test_targets_that_were_idle_on_phis_own_layout_show_it(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer_config.json").write_text('["<|assistant|>", "<|end|>"]')
    adapter = published("microsoft/Phi-3-mini-4k-instruct", layers("self_attn.o_proj"), WIDTHS)
    adapter.config["target_modules"] = ["q_proj", "v_proj", "o_proj", 3, {}]
    assert errors(lint_folder(adapter.save(tmp_path / "a"), llama))
    adapter.config["target_modules"] = ["q_proj", "v_proj", "o_proj"]
    error = only_error(lint_folder(adapter.save(tmp_path / "b"), llama))
    assert "it targets q_proj, v_proj, but only o_proj was trained" in error.message
    assert "in its own layout with --base" in error.fix
    adapter.config["target_modules"] = ["o_proj"]
    assert not errors(lint_folder(adapter.save(tmp_path / "c"), llama))


@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("name", [None, "", "/x/y", "tiny", "microsoft/phi-4", "Qwen/Qwen3-8B"])
def test_qkv_proj_is_a_phis_whatever_the_name(
    name: str | None, based: bool, base: Path, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = name
    report = lint_folder(adapter.save(tmp_path), base if based else None)
    assert report.accepted
    assert "config-other-base" in report.rules_run


@pytest.mark.parametrize("modules", [["lm_head"], ["model.embed_tokens", "lm_head"]])
def test_an_adapter_of_tables_only_is_for_the_base_that_it_names(
    modules: list[str], tmp_path: Path
) -> None:
    folder = published("meta-llama/Llama-3.2-1B", modules).save(tmp_path)
    assert "--any-base" in refused(only_error(lint_folder(folder)))


@pytest.mark.parametrize("content", [None, b"<html>"])
def test_another_base_is_named_without_readable_weights(
    content: bytes | None, tmp_path: Path
) -> None:
    folder = published("Qwen/Qwen2.5-7B", layers(*SPLIT)).save(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    if content:
        (folder / "adapter_model.safetensors").write_bytes(content)
    (_, other) = errors(lint_folder(folder))
    assert "--any-base" in refused(other)


def test_the_rules_on_another_base_say_what_blocks_them(tmp_path: Path) -> None:
    report = lint_folder(published("gpt2", ["transformer.h.0.attn.c_attn"]).save(tmp_path))
    assert {rule.fix_first for rule in report.unchecked} - {""} == {"config-other-base"}
    blocked = {rule.rule.partition("-")[0] for rule in report.blocked}
    assert blocked >= {"config", "tensors", "values", "base", "tokenizer", "export"}
    ran = {rule.partition("-")[0] for rule in report.rules_run}
    assert ran == {"files", "config", "manifest", "lint"}


def test_ignoring_the_finding_does_not_accept_the_adapter(tmp_path: Path) -> None:
    from phi3_lora_qa import lint

    folder = published("gpt2", ["transformer.h.0.attn.c_attn"]).save(tmp_path)
    report = lint(str(folder), ignore=["config-other-base"])
    assert [found.rule for found in report.findings] == ["lint-internal-error"]
    assert not report.accepted
