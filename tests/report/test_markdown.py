from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from phi3_lora_qa.report import render_markdown
from phi3_lora_qa.report.markdown import MAX_TODO, code, text
from phi3_lora_qa.report.safe_text import NOTHING
from tests.report.builders import checks, failing, incomplete, metric, passing, stopped_early
from tests.report.hostile import hostile_record

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = st.text(st.sampled_from("\\`*_[]()<>|~&!#@:/.-+= \n\taw1"), max_size=40)
PLAIN = {"text", "softbreak"}


def parse(source: str) -> list[Token]:
    flat: list[Token] = []
    for token in PARSER.parse(source):
        flat += [token, *(token.children or [])]
    return flat


def shown(source: str) -> str:
    return "".join(t.content for t in parse(source) if t.type in ("text", "code_inline"))


@given(MARKUP)
def test_escaped_text_is_read_as_plain_text(value: str) -> None:
    types = {token.type for token in parse("x " + text(value)) if token.type != "inline"}
    assert types <= {"paragraph_open", "paragraph_close", *PLAIN}
    assert shown("x " + text(value)).replace("\u200b", "").split() == ["x", *value.split()]


@given(MARKUP)
def test_text_in_a_code_span_stays_one_code_span_and_one_table_cell(value: str) -> None:
    source = f"| a | b |\n|---|---|\n| {code(value)} | end |"
    tokens = parse(source)
    assert sum(t.type == "td_open" for t in tokens) == 2
    assert sum(t.type == "code_inline" for t in tokens) == 1


@pytest.mark.parametrize(
    "trap", ["@org/team", "fixes #12", "https://evil.example", "www.evil.example"]
)
def test_a_forge_makes_neither_a_mention_nor_a_link_of_a_message(trap: str) -> None:
    escaped = text(trap)
    assert trap not in escaped
    assert "&#8203;" in escaped


def test_a_hostile_record_adds_neither_markup_nor_rows() -> None:
    source = render_markdown(hostile_record())
    source.encode()
    tokens = parse(source)
    assert not {"html_block", "html_inline", "image", "link_open"} & {t.type for t in tokens}
    assert sum(t.type == "tr_open" for t in tokens) == 2
    assert "\u202e" not in source
    assert "\x00" not in source


def test_the_summary_has_the_verdict_the_reason_the_fix_and_the_metrics() -> None:
    source = render_markdown(failing())
    assert source.startswith("## ✕ FAIL `ferry-desk`\n\n**FAIL:** 2 of 21 checks failed")
    words = shown(source)
    assert "gradient clipping (max_grad_norm)" in words
    assert "phi3::quality::loss[general]" in words
    rows = [t for t in parse(source) if t.type == "tr_open"]
    assert len(rows) == 1 + len(failing().metrics)
    assert "no worse than the base by more than 0.05" in words


def test_the_summary_says_on_how_many_items_the_tuned_model_was_evaluated() -> None:
    assert "items 194 of 300 (stopped early), " in render_markdown(
        passing(checks=stopped_early(194, 106))
    )
    assert "items" not in render_markdown(passing(checks=checks())).partition("###")[0]


def test_a_pass_is_ok_to_ship_and_an_incomplete_run_is_not() -> None:
    assert "**Fix:**" not in render_markdown(passing())
    assert "All 21 checks passed. OK to ship." in render_markdown(passing())
    assert "Do not ship" in render_markdown(incomplete())
    assert "OK to ship" not in render_markdown(incomplete())
    assert "### Metrics" not in render_markdown(incomplete())


def test_a_long_list_of_things_to_do_is_cut_and_counted() -> None:
    results = [
        replace(failing().checks[5], id=f"phi3::static::c{n}", message=f"broken {n}")
        for n in range(MAX_TODO + 3)
    ]
    source = render_markdown(failing(checks=results))
    assert source.count("**Fix:**") == MAX_TODO
    assert "and 3 more; report.html lists all of them" in source


def test_a_measured_metric_without_a_limit_is_not_said_to_have_not_run() -> None:
    source = render_markdown(passing(metrics=[metric(limit=None), metric(metric="chrf")]))
    rows = [line for line in source.splitlines() if line.startswith("| target |")]
    assert rows[0].endswith(f"| none | {NOTHING} no limit |")
    assert rows[1].endswith("| no worse than the base by more than 0.05 | ✓ passed |")
    assert "not run" not in source


def test_a_metric_name_with_a_pipe_stays_in_its_cell() -> None:
    metrics = [metric(metric="a|b`c", group="<g>|")]
    source = render_markdown(passing(metrics=metrics))
    assert sum(t.type == "td_open" for t in parse(source)) == 8
