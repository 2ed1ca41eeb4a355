"""Arguments of the public functions that have a wrong type."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa import gate_adapter, lint, load_record
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.function_arguments import require_path, require_texts
from phi3_lora_qa.models.registry import bundled

ADAPTER = bundled("tiny") / "adapter"
NOT_PATHS = (None, b"adapter", 5, 1.5, ["adapter"], ("a", "b"), {"a": 1}, "", " ")
FUNCTIONS: dict[str, Callable[[object], object]] = {
    "lint": lint,  # type: ignore[dict-item]
    "base of lint": lambda value: lint(ADAPTER, value or ""),  # type: ignore[arg-type]
    "load_record": load_record,  # type: ignore[dict-item]
    "gate_adapter": lambda value: gate_adapter(value, base="tiny"),  # type: ignore[arg-type]
    "base of gate_adapter": lambda value: gate_adapter(ADAPTER, base=value or ""),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("value", NOT_PATHS, ids=repr)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_not_a_path_is_rejected_with_its_name_and_value(
    function: str, value: object
) -> None:
    with pytest.raises(InputError, match=r"is not a path: got .*; pass a string or a Path"):
        FUNCTIONS[function](value)


@pytest.mark.parametrize("value", [None, "values", b"values", 5, [5], [None]], ids=repr)
@pytest.mark.parametrize("name", ["select", "ignore", "levels"])
def test_lint_rejects_what_is_not_a_list_of_strings(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} is not a list of strings: got .*; pass a list"):
        lint(ADAPTER, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "suite.jsonl", 5, [5]], ids=repr)
@pytest.mark.parametrize("name", ["suite", "stages"])
def test_the_gate_rejects_what_is_not_a_list_of_strings(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} is not a list of strings: got"):
        gate_adapter(ADAPTER, base="tiny", **{name: value})  # type: ignore[arg-type]


def test_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert require_path("~/adapter", "adapter") == tmp_path / "adapter"
    assert require_path(tmp_path, "adapter") == tmp_path


def test_lists_may_contain_paths() -> None:
    assert require_texts([Path("a"), "b"], "suite") == ("a", "b")
    assert require_texts((), "suite") == ()


@pytest.mark.parametrize("entry", ["", "."])
def test_an_adapter_on_the_import_path_is_rejected(
    entry: str,
    adapter_copy: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = adapter_copy("adapter")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [*sys.path, entry])
    with pytest.raises(InputError, match=r"modules that Python would import .* off sys\.path"):
        gate_adapter(folder, base="tiny")
