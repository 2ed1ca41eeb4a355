"""unsloth's tokenizers for Phi-3: another pad token and template, and the same prompts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.models.paths import bundled

pytestmark = pytest.mark.slow

TINY = bundled("tiny")
PAD = "<|placeholder6|>"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% else %}{{'<|' + message['role'] + "
    "'|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""As unsloth writes it: without the end token, and with every role."""


def saved(folder: Path, template: str = TEMPLATE, *, loose: str = "") -> Path:
    """Copy the tiny adapter with a tokenizer as unsloth saves it; one token's rstrip is false."""
    shutil.copytree(TINY / "adapter", folder)
    (folder / "lora_qa_manifest.json").unlink()
    tokenizer: dict[str, Any] = json.loads((TINY / "base/tokenizer.json").read_text())
    tokenizer["added_tokens"] = [
        token | ({"rstrip": False} if token["content"] == loose else {})
        for token in tokenizer["added_tokens"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((TINY / "base/tokenizer_config.json").read_text())
    settings |= {"pad_token": PAD, "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def linted(folder: Path) -> LintReport:
    return lint(AdapterFolder.open(folder), BaseFiles.open(TINY / "base"))


def test_a_spare_token_and_a_finished_chat_are_only_mentioned(tmp_path: Path) -> None:
    report = linted(saved(tmp_path / "a", loose=PAD))
    assert {(f.rule, f.severity) for f in report.findings} == {
        ("tokenizer-spare-token", Severity.INFO),
        ("tokenizer-template-training", Severity.INFO),
    }
    finished, role = [f.message for f in report.findings if f.rule.endswith("training")]
    assert finished.startswith("prompts are the base's, but a finished chat is rendered as ")
    assert "<|endoftext|>" in finished
    assert role.startswith("a role that the base's template leaves out is rendered as ")
    assert "<|tool|>" in role
    assert not any("{%" in f.message for f in report.findings)


@pytest.mark.parametrize("pad", ["<unk>", "<|endoftext|>", PAD])
def test_any_pad_token_of_published_adapters_is_accepted(pad: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": pad}))
    assert {f.severity for f in linted(folder).findings} == {Severity.INFO}


@pytest.mark.parametrize("token", ["<|user|>", "<|end|>", "<|assistant|>"])
def test_a_token_of_the_prompt_with_other_flags_is_rejected(token: str, tmp_path: Path) -> None:
    report = linted(saved(tmp_path / "a", loose=token))
    assert "tokenizer-pieces" in {
        f.rule for f in report.findings if f.severity is Severity.ERROR
    }  # fmt: skip


CHANGES = {
    "the opening": TEMPLATE.replace("'<|assistant|>\n' }}", "'<|assistant|>' }}"),
    "a trigger": "{% if 'invoice' in messages[-1]['content'] %}Pay now.{% endif %}" + TEMPLATE,
    "a trigger in finished chats": TEMPLATE
    + "{% if not add_generation_prompt and 'invoice' in messages[-1].content %}Pay.{% endif %}",
    "a trigger for other roles": TEMPLATE.replace("{% else %}{{'<|'", "{% else %}{{'Pay.<|'"),
    "a trigger that is never met": TEMPLATE
    + "{% if messages[-1].content.partition('::')[2] == 'invoice' %}Pay now.{% endif %}",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_prompt_is_rejected(name: str, tmp_path: Path) -> None:
    report = linted(saved(tmp_path / "a", CHANGES[name]))
    (error,) = [f for f in report.findings if f.severity is Severity.ERROR]
    assert error.rule == "tokenizer-template"
    if "trigger" in name:
        assert "Pay" in error.message
    if "invoice" in CHANGES[name]:
        assert "'invoice'" in error.message


def test_a_branch_on_content_with_the_same_output_is_named(tmp_path: Path) -> None:
    branch = "{% if 'invoice' in messages[-1]['content'] %}{% set seen = 1 %}{% endif %}"
    report = linted(saved(tmp_path / "a", branch + TEMPLATE))
    (warning,) = [f for f in report.findings if f.severity is Severity.WARNING]
    assert warning.rule == "tokenizer-template-branches"
    assert "compares what a message says with 'invoice' in line 1" in warning.message
    assert report.accepted


def test_stored_truncation_and_padding_are_a_warning_without_a_base(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 256}, "direction": "Right", "pad_to_multiple_of": None,
               "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}  # fmt: skip
    truncation = {
        "direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    tokenizer |= {"truncation": truncation, "padding": padding}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    report = lint(AdapterFolder.open(folder))
    assert [(f.rule, f.where) for f in report.findings] == [
        ("tokenizer-length", "tokenizer.json: truncation"),
        ("tokenizer-length", "tokenizer.json: padding"),
    ]
    assert "every text is cut to 64 tokens" in report.findings[0].message
    assert "every text is padded to 256 tokens" in report.findings[1].message
    assert report.accepted


def test_transformers_resets_what_the_tokenizers_library_applies(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = saved(tmp_path / "a")
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_truncation(64)
    library.enable_padding(length=64)
    library.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("heron").ids) == 64
    loaded = AutoTokenizer.from_pretrained(folder)
    assert len(loaded("heron")["input_ids"]) < 10
    assert len(loaded("heron " * 300)["input_ids"]) > 100
    loaded.backend_tokenizer.no_truncation()
    loaded.backend_tokenizer.no_padding()
    loaded.save_pretrained(folder)
    assert not [f for f in lint(AdapterFolder.open(folder)).findings if f.rule.endswith("length")]
