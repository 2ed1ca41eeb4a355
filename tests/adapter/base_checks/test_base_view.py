"""Tests of the parts of a base that the rules see."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.errors import BaseModelError
from tests.adapter.base_variants import CONFIG, GENERATION, TEMPLATE, TINY, copy_base


def test_the_files_that_are_open_already_are_used() -> None:
    files = BaseFiles.open(TINY)
    assert BaseView(TINY, files=files).files is files


def test_stop_tokens_come_from_config_json_only_without_the_other_file(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    assert BaseView(base).stop_setting == (GENERATION, [741, 742, 748])
    (base / GENERATION).unlink()
    assert BaseView(base).stop_setting == (CONFIG, 741)


def test_prompts_are_counted_by_their_roles() -> None:
    prompts = [("user",), ("system", "user"), ("user",)]
    assert BaseView(TINY, prompts=prompts).shapes == {("user",): 2, ("system", "user"): 1}


def test_a_base_without_tokenizer_and_template_has_neither(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    for name in (TEMPLATE, "tokenizer.json"):
        (base / name).unlink()
    view = BaseView(base)
    assert (view.template, view.tokenizer, view.added_tokens) == (None, None, {})
    assert view.trial.unseen is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (GENERATION, "generation"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "template"),
    ],
)
def test_a_file_that_is_not_valid_is_the_bases_fault(name: str, part: str, tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / name).write_text('{"a": 1, "a": 2}')
    with pytest.raises(BaseModelError, match="the base's"):
        getattr(BaseView(base), part)
