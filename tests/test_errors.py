"""Untrusted text is printed safely; shortages of the machine and bad paths are recognised."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.errors import InputError, escape, path_trouble, shortage


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::add-mask::e", r":\x3aadd-mask::e"),
        ("  ::error::e", r"  :\x3aerror::e"),
        ("\t::error::e", r"\t::error::e"),
        ("##[error]e", r"#\x23[error]e"),
        ("a###[error]e", r"a#\x23#[error]e"),
        ("x ##vso[task.complete]", r"x #\x23vso[task.complete]"),
        ("std::vector, phi3::static", "std::vector, phi3::static"),
        ("one # two", "one # two"),
        ("a\nb\u202ec\ud800", r"a\nb\u202ec\ud800"),
    ],
)
def test_commands_and_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.text(st.sampled_from(" :#[\t\n\x1b\u202eab"), max_size=12))
def test_escaped_text_is_one_printable_line_without_a_command(text: str) -> None:
    line = escape(text)
    assert line.isprintable()
    assert "##" not in line
    assert not line.lstrip().startswith("::")
    assert escape(line) == line


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "ran out of memory"),
        (OSError(errno.EMFILE, "too many"), "ran out of file handles"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "ran out of memory"),
        (ImportError("x.so: failed to map segment"), "ran out of memory"),
        (SystemError("<f> returned NULL without setting an exception"), "ran out of memory"),
        (raised_from(ValueError("bad header"), OSError(errno.ENOSPC, "full")), "disk space"),
        (RecursionError(), "recursion limit was reached"),
    ],
)
def test_a_shortage_is_recognised_through_the_chain_of_causes(
    error: BaseException, says: str
) -> None:
    assert says in str(shortage(error))


def test_other_errors_are_not_a_shortage() -> None:
    circular = ValueError("a")
    circular.__cause__ = circular
    for error in (circular, InputError("out of memory"), OSError(errno.ENOENT, "missing")):
        assert shortage(error) is None


def test_a_path_that_the_system_rejects_is_named() -> None:
    error = path_trouble(OSError(errno.EACCES, "Permission denied", "a\nb"))
    assert str(error).startswith(r"cannot use a\nb: Permission denied; use another path")
    assert path_trouble(ValueError("x")) is None
    assert path_trouble(OSError(errno.ENOSPC, "full", "a")) is None
