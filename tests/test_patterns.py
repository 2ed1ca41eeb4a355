import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.patterns import Pattern, PatternError

ATOMS = st.sampled_from(
    ["a", "b", ".", "_", "0", r"\.", r"\d", r"\w", r"\s", r"\W", "[ab]", "[^a]", "[a-c0-9_]",
     r"[\d.]", "[]a]", "[a-]", r"\b", "^", "$", "-", "layers", r"\-"]
)  # fmt: skip
QUANTIFIERS = st.sampled_from(
    ["", "", "", "*", "+", "?", "*?", "+?", "{2}", "{1,}", "{0,2}", "{,1}"]
)


def _repeat(atom: str, quantifier: str) -> str:
    return atom + quantifier if atom not in (r"\b", "^", "$") else atom


PIECES = st.builds(_repeat, ATOMS, QUANTIFIERS)
GROUPS = st.recursive(
    st.lists(PIECES, max_size=4).map("".join),
    lambda inner: (
        st.builds(
            lambda parts, opening, quantifier: opening + "|".join(parts) + ")" + quantifier,
            st.lists(inner, min_size=1, max_size=3),
            st.sampled_from(["(", "(?:", "(?P<x>", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?s:"]),
            QUANTIFIERS,
        )
        | st.builds("".join, st.lists(inner, max_size=3))
    ),
    max_leaves=6,
)
PATTERNS = st.builds("".join, st.tuples(st.sampled_from(["", "", "(?i)", "(?s)"]), GROUPS))
TEXTS = st.text(alphabet="aAb.c_0-9 layers", max_size=12)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(PATTERNS, TEXTS)
def test_a_pattern_matches_like_pythons_re(text: str, name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reference = re.compile(text)
    except (re.error, FutureWarning):
        return
    pattern = Pattern(text)
    assert pattern.fullmatch(name) == bool(reference.fullmatch(name))
    assert pattern.match(name) == bool(reference.match(name))
    assert pattern.search(name) == bool(reference.search(name))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=r"ab.()[]{}|*+?^$\-,0189dwbZAPx<>:!=", max_size=14), TEXTS)
def test_any_accepted_pattern_matches_like_pythons_re(text: str, name: str) -> None:
    try:
        pattern = Pattern(text)
    except PatternError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = re.compile(text)
    assert pattern.fullmatch(name) == bool(reference.fullmatch(name))


@pytest.mark.parametrize(
    "text",
    [
        "(?=(a|a)*b)a*",
        "a*(?<=(a|a){30}b)",
        "(a|a)*b",
        "(a*)*b",
        "((a+)+)+b",
        "(.*)*x(.*)*y",
        "(a?){60}a{60}b",
        "(x+x+)+y",
    ],
)
def test_patterns_with_exponential_time_in_re_are_fast(text: str) -> None:
    start = time.perf_counter()
    assert not Pattern(text).fullmatch("a" * 200)
    assert not Pattern(text).match("x" * 200)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "text",
    [
        "(?<=a*)b", "(?<!a|bb)c", r"(a)\1", "(?m)a", "a(?i)", "(?P=x)", "(?=a", "(?(1)a)",
        "(?i-s:a)", "(?#a)", "(?>a)", "a*+", "a**", "*a", "a{",
        "a{2,1}", "(", ")", "[a", "[b-a]", "[[a]", "\\", r"\q", r"\x41", "(" * 50 + ")" * 50,
        "a" * 9000, "((a{100}){100}){100}", "(?P<1>a)", "^*", "a{99999}",
        "(?P<a>x)(?P<a>y)", "(?P<a>x(?P<a>y))", "(?P<a>x)|(?P<a>y)", "((?P<a>x)|b)*(?P<a>y)",
    ],
)  # fmt: skip
def test_unsupported_patterns_are_rejected_quickly(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(PatternError):
        Pattern(text)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "text",
    ["(.|.)*!", "([a-z]+)+!", "(.*)*!", "(?=(.|.)*!)x", "x*(?<=(.|.){38}!)", ".*.*.*.*.*.*.*!"],
)
def test_a_pattern_that_is_slow_in_re_has_many_steps(text: str) -> None:
    assert Pattern(text).steps_in_re("x" * 40, 10_000, whole=True) > 10_000


@pytest.mark.parametrize("text", ["x*", ".*.x", "(?=x).*", "(x|y)*", "(x?){3}.*", "(x*)*"])
def test_a_pattern_that_is_fast_in_re_has_few_steps(text: str) -> None:
    assert Pattern(text).steps_in_re("x" * 40, 10_000, whole=True) < 1000


def test_groups_with_the_same_name_are_rejected_as_in_re() -> None:
    with pytest.raises(PatternError, match="two groups have the same name"):
        Pattern("(?P<a>x)(?P<a>y)")
    assert Pattern("(?P<a>x)(?P<b>y)").fullmatch("xy")


@pytest.mark.slow
def test_a_pattern_with_too_many_steps_is_stopped() -> None:
    pattern = Pattern("(a|b)*a" + "(a|b)" * 300)
    names = [format(n * 7919, "b").translate({48: "a", 49: "b"}) * 12 for n in range(4_000)]
    with pytest.raises(PatternError, match="too long"):
        list(map(pattern.fullmatch, names))
