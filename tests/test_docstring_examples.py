"""Public names are documented: every example runs, and arguments and results are described."""

import doctest
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

PACKAGES = (
    "phi3_lora_qa",
    "phi3_lora_qa.lora",
    "phi3_lora_qa.strategies",
    "phi3_lora_qa.properties",
    "phi3_lora_qa.metrics",
    "phi3_lora_qa.loralib_interop",
    "phi3_lora_qa.conversion",
)


def public_names(package: str) -> list[str]:
    """Return the names in ``__all__``, or a placeholder for a package without it."""
    return list(getattr(importlib.import_module(package), "__all__", ["__all__"]))


def is_documented(value: Any) -> bool:
    """Return whether a value has its own docstring: a function or a class, but not an alias."""
    if isinstance(value, types.GenericAlias):
        return False
    return inspect.isclass(value) or inspect.isroutine(value)


def missing_sections(value: Any) -> Iterator[str]:
    """Yield the sections that a docstring should have and lacks."""
    text = inspect.getdoc(value) or ""
    if ">>>" not in text.partition("Example:")[2]:
        yield "Example"
    if inspect.isclass(value):
        has_fields = is_dataclass(value) and fields(value)
        if has_fields and "Attributes:" not in text and "Args:" not in text:
            yield "Attributes"
        return
    signature = inspect.signature(value)
    if signature.parameters and "Args:" not in text:
        yield "Args"
    returns = signature.return_annotation not in (None, "None", inspect.Signature.empty)
    if returns and "Returns:" not in text and "Yields:" not in text:
        yield "Returns"


def failures(name: str, value: Any, namespace: dict[str, Any]) -> str:
    """Run the examples of a docstring; return the report of those that fail."""
    text = inspect.getdoc(value) or ""
    test = doctest.DocTestParser().get_doctest(text, dict(namespace), name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_all_exists(package: str) -> None:
    names, module = public_names(package), importlib.import_module(package)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in PACKAGES for name in public_names(package)],
)
def test_a_public_name_is_documented_and_its_example_runs(package: str, name: str) -> None:
    module = importlib.import_module(package)
    value = getattr(module, name)
    if not is_documented(value):
        return
    assert list(missing_sections(value)) == []
    home = vars(sys.modules[value.__module__])
    assert failures(name, value, {**vars(module), **home, name: value}) == ""


def test_missing_sections_are_found() -> None:
    def undocumented(x: int) -> int:
        """Return x."""
        return x

    assert list(missing_sections(undocumented)) == ["Example", "Args", "Returns"]


def test_a_failing_example_is_found() -> None:
    def wrong() -> None:
        """Do nothing.

        Example:
            >>> 1 + 1
            3
        """

    assert list(missing_sections(wrong)) == []
    assert "Expected:\n    3\nGot:\n    2" in failures("wrong", wrong, {})
