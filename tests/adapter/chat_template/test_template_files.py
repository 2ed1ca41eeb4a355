"""Chat templates are found in the same places, and with the same precedence, as in transformers."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.chat_template.template_files import (
    DEFAULT,
    MAX_TEMPLATES,
    PROCESSOR_FILES,
    TEMPLATE,
    ChatTemplates,
    chat_template,
    read_templates,
)
from phi3_lora_qa.adapter.folder import TEMPLATE_FOLDER, AdapterFolder
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import plain

SETTINGS = "tokenizer_config.json"


def read(folder: Path, **files: object) -> ChatTemplates:
    """Write files, text as it is and other values as a chat_template in JSON, and read them."""
    plain().save(folder)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        is_text = name.endswith(".jinja")
        path.write_text(str(content) if is_text else json.dumps({"chat_template": content}))
    return read_templates(AdapterFolder.open(folder))


def test_a_file_replaces_the_settings_and_the_sub_folder_replaces_the_file(tmp_path: Path) -> None:
    assert read(tmp_path / "a", **{SETTINGS: "s"}).active[DEFAULT].text == "s"
    found = read(tmp_path / "b", **{SETTINGS: "s", TEMPLATE: "f"})
    assert (found.active[DEFAULT].text, found.active[DEFAULT].file) == ("f", TEMPLATE)
    assert [template.text for template in found.shadowed] == ["s"]
    inner = f"{TEMPLATE_FOLDER}/default.jinja"
    found = read(tmp_path / "c", **{TEMPLATE: "f", inner: "d", f"{TEMPLATE_FOLDER}/rag.jinja": "r"})
    assert {name: template.text for name, template in found.active.items()} == {
        DEFAULT: "d",
        "rag": "r",
    }


def test_the_later_of_two_templates_in_a_list_wins(tmp_path: Path) -> None:
    pairs = [{"name": DEFAULT, "template": text} for text in ("first", "second")]
    found = read(tmp_path, **{SETTINGS: pairs})
    assert found.active[DEFAULT].text == "second"
    assert [template.text for template in found.shadowed] == ["first"]


@pytest.mark.parametrize("name", PROCESSOR_FILES)
def test_a_processors_template_is_used_only_if_there_is_no_other_template(
    name: str, tmp_path: Path
) -> None:
    found = read(tmp_path / "a", **{name: "p"})
    assert found.default is None
    assert found.main is not None
    assert found.main.text == "p"
    assert chat_template(AdapterFolder.open(tmp_path / "a")) is None
    found = read(tmp_path / "b", **{name: "p", SETTINGS: "s"})
    assert found.main is not None
    assert found.main.text == "s"


def test_only_the_final_line_break_is_removed(tmp_path: Path) -> None:
    assert read(tmp_path, **{TEMPLATE: " x \n\n"}).active[DEFAULT].text == " x \n"


@pytest.mark.parametrize("value", [3, [3], {"default": 1}, [{"name": "default"}]])
def test_an_invalid_chat_template_is_an_error(value: object, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has an invalid chat_template; save the tokenizer"):
        read(tmp_path, **{SETTINGS: value})


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (plain().save(tmp_path) / TEMPLATE).write_bytes(b"\xff")
    with pytest.raises(AdapterError, match="is not UTF-8"):
        read_templates(AdapterFolder.open(tmp_path))


def test_too_many_templates_are_an_error(tmp_path: Path) -> None:
    many = {f"n{number}": "x" for number in range(MAX_TEMPLATES + 1)}
    with pytest.raises(AdapterError, match="has 17 chat templates, at most 16 are allowed"):
        read(tmp_path, **{SETTINGS: many})
