"""The tokens that end an answer or begin a turn are read from the files of a base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.turn_tokens import TurnTokens
from phi3_lora_qa.models.base_turn_tokens import read_turn_tokens
from phi3_lora_qa.models.registry import BaseRef, bundled, resolve_base

PHI3 = TurnTokens(
    stops=("<|assistant|>", "<|endoftext|>", "<|end|>"), openers=("<|system|>", "<|user|>")
)


def write(folder: Path, **files: Any) -> BaseRef:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}{'.jinja' if name == 'chat_template' else '.json'}").write_text(text)
    return BaseRef(id=str(folder), folder=folder, name=folder.name)


def added(*texts: str) -> dict[str, Any]:
    return {"added_tokens": [{"id": n, "content": text} for n, text in enumerate(texts)]}


def test_the_tokens_of_the_bundled_base_are_those_of_its_stop_rule_and_its_template() -> None:
    assert read_turn_tokens(resolve_base("tiny")) == PHI3


def test_they_are_the_same_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    """Without a generation_config.json, config.json names the stop tokens."""
    base = tmp_path / "base"
    shutil.copytree(bundled("tiny") / "base", base)
    stops = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"eos_token_id": stops}))
    (base / "generation_config.json").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings["chat_template"] = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_turn_tokens(BaseRef(id="x", folder=base, name="x")) == PHI3


def test_a_template_that_writes_roles_has_a_token_for_each_role(tmp_path: Path) -> None:
    base = write(
        tmp_path,
        tokenizer=added("<|end|>", "<|user|>", "<|assistant|>", "<|tool|>", "<mask>", "</s>"),
        chat_template="{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}",
        generation_config={"eos_token_id": [0]},
    )
    assert read_turn_tokens(base) == TurnTokens(
        stops=("<|end|>",), openers=("<|assistant|>", "<|user|>")
    )


def test_the_end_of_text_token_of_a_base_ends_an_answer(tmp_path: Path) -> None:
    """``</s>`` counts only where it does; in other bases it is HTML."""
    files = {"tokenizer": added("</s>", "[INST]"), "chat_template": "[INST] {{ m }}"}
    base = write(tmp_path, **files, tokenizer_config={"eos_token": {"content": "</s>"}})
    assert read_turn_tokens(base) == TurnTokens(stops=("</s>",), openers=("[INST]",))
    base = write(tmp_path, **files, tokenizer_config={"eos_token": "<|end|>"})
    assert read_turn_tokens(base) == TurnTokens(stops=(), openers=("[INST]",))


def test_tokens_may_be_in_the_settings_only(tmp_path: Path) -> None:
    decoder = {"3": {"content": "<|im_end|>"}, "x": {"content": "no"}, "4": None}
    base = write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    assert read_turn_tokens(base) == TurnTokens(stops=("<|im_end|>",), openers=())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"added_tokens": [3, {"id": "x"}]}', "\x00"])
def test_a_base_without_a_readable_tokenizer_has_no_known_tokens(text: str, tmp_path: Path) -> None:
    assert read_turn_tokens(write(tmp_path, tokenizer=text, config=text)) is None


def test_a_base_that_is_not_on_this_machine_has_no_known_tokens() -> None:
    assert read_turn_tokens(BaseRef(id="org/unknown", folder=None, name="unknown")) is None
