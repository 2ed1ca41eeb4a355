import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.record import (
    AdapterEntry,
    BaseEntry,
    BaseFinding,
    Outcome,
    RunRecord,
    SettingEntry,
    Turn,
    UnseenTurns,
    Verdict,
)
from phi3_lora_qa.report import render_html, render_markdown
from phi3_lora_qa.report.html import TEMPLATES
from phi3_lora_qa.report.safe_text import TEXT_LIMIT, visible
from phi3_lora_qa.setting_specs import SourceKind
from tests.report.builders import (
    checks,
    failing,
    incomplete,
    item,
    items,
    limit,
    metric,
    passing,
    prompt,
    spectra,
    stopped_early,
)
from tests.report.hostile import HOSTILE, hostile_items, hostile_record
from tests.report.parsing import Parsed

ANY_TEXT = st.text(st.characters(categories=None), max_size=200)
PIECES = [*"<>/&;\"'=!-[]{}% \n\0a#x", "<script>", "</div>", "-->"]
MARKUP = st.lists(st.sampled_from(PIECES)).map("".join)
HARMLESS = Parsed(render_html(incomplete(), [item(1)]))
LOADING = {"src", "href", "action", "formaction", "data", "srcset", "poster", "xlink:href"}


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[ANY_TEXT | MARKUP] * 4))
def test_any_answer_leaves_the_elements_of_the_page_unchanged_and_is_shown(
    texts: tuple[str, str, str, str],
) -> None:
    question, reference, base, tuned = texts
    turns = prompt(question, system=f"x{reference}")
    row = item(1, prompt=turns, reference=reference, base_answer=base, tuned_answer=tuned)
    found = Parsed(render_html(incomplete(), [row]))
    assert found.skeleton == HARMLESS.skeleton
    assert found.texts["answer"] == [visible(base), visible(tuned)]
    assert found.texts["text"] == [visible(question), visible(reference)]
    assert found.texts["turn"] == [visible(f"x{reference}")]


@settings(max_examples=40, deadline=None)
@given(ANY_TEXT | MARKUP)
def test_any_text_of_the_record_leaves_the_elements_of_the_page_unchanged(text: str) -> None:
    def page(words: str) -> Parsed:
        result = replace(failing().checks[5], message=words + "x", fix=words + "x")
        words = words or "x"
        record = incomplete(
            reason=words,
            adapter=replace(passing().adapter, name=words, path=words),
            checks=[result],
            metrics=[metric(group=words, method=words)],
        )
        return Parsed(render_html(record, []))

    assert page(text).skeleton == page("harmless").skeleton


def test_hostile_strings_in_every_place_open_no_element_and_load_nothing() -> None:
    page = render_html(hostile_record(), hostile_items())
    found = Parsed(page)
    tags = [entry.split()[0] for entry in found.skeleton]
    assert tags.count("<script") == tags.count("<style") == 1
    assert not {"<img", "<iframe", "<object", "<base", "<embed"} & set(tags)
    handlers = [name for _, name, _ in found.attributes if name.startswith("on")]
    assert not handlers
    targets = {value for _, name, value in found.attributes if name in LOADING}
    assert all(value.startswith("#") or value == "data:," for value in targets)
    assert not any(name == "style" for _, name, _ in found.attributes)


def test_every_character_of_the_page_is_visible_and_can_be_encoded() -> None:
    page = render_html(hostile_record(), hostile_items())
    page.encode("utf-8")
    assert visible(page) == page


def test_the_same_record_and_items_give_the_same_page() -> None:
    first = render_html(failing(), items())
    render_html(hostile_record(), hostile_items())
    assert render_html(failing(), items()) == first


def test_the_policy_allows_the_pages_own_style_and_script_by_hash_and_nothing_else() -> None:
    page = render_html(passing(), items(3))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    assert allowed.startswith("default-src 'none'; ")
    assert "unsafe" not in allowed
    assert "http" not in allowed
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed


@pytest.mark.parametrize("build", [passing, failing, incomplete])
def test_the_verdict_its_reason_and_what_to_do_come_first(
    build: Callable[[], RunRecord],
) -> None:
    record = build()
    page = render_html(record, items(3))
    places = [
        page.index(f"</span>{record.verdict}</h1>"),
        page.index('class="reason"'),
        page.index('id="todo"'),
        page.index('id="checks"'),
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_shown_by_a_word_and_a_sign(verdict: Verdict) -> None:
    found = Parsed(render_html(incomplete(verdict=verdict), []))
    assert f"tone-{verdict}" in " ".join(found.texts)
    assert found.texts["seal"][0]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_can_be_shown(outcome: Outcome) -> None:
    results = [replace(result, outcome=outcome) for result in checks()]
    page = render_html(passing(checks=results, metrics=[metric(outcome=outcome)]), [])
    assert f"tone-{outcome}" in page


def test_the_head_says_on_how_many_items_the_tuned_model_was_evaluated() -> None:
    def shown(scored: object, skipped: object) -> str:
        page = render_html(passing(checks=stopped_early(scored, skipped)), [item(1)])
        return page.partition("<dt>Items</dt><dd>")[2].partition("</dd>")[0]

    assert shown(194, 106) == "194 of 300 (stopped early)"
    assert shown(300, 0) == "300"
    for nonsense in (-3, "many", True, 10**300, [1], None):
        assert shown(nonsense, nonsense) == "1"
    assert "<dt>Items</dt><dd>none</dd>" in render_html(passing(), [])


def test_only_checks_that_did_not_pass_are_to_do_the_failed_before_the_inconclusive() -> None:
    found = Parsed(render_html(failing(), []))
    heads = [" ".join(text.split()) for text in found.texts["outcome tone-failed"][:2]]
    assert heads == ["failed", "failed"]
    page = render_html(failing(), [])
    todo = page[page.index('id="todo"') : page.index('id="metrics"')]
    assert todo.index("lower learning rate or gradient clipping") < todo.index("140 items")
    assert "<li" not in render_html(passing(), []).split("</style>")[1]


def test_checks_with_the_same_message_are_one_thing_to_do() -> None:
    page = render_html(incomplete(), [])
    todo = page[page.index('id="todo"') : page.index('id="checks"')]
    assert todo.count("<li") == 1
    assert "and 10 more" in todo


def test_a_pass_of_some_stages_is_not_ok_to_ship() -> None:
    assert "All 21 checks passed. OK to ship." in render_html(passing(), [])
    settings = {
        "stage": SettingEntry(value=["static"], source="--phi3-stage", kind=SourceKind.OPTION)
    }
    page = render_html(passing(settings=settings), [])
    assert "chosen stages (static)" in page
    assert "OK to ship" not in page


def test_an_interval_of_the_tuned_mean_is_not_shown_as_one_of_the_difference() -> None:
    page = render_html(
        passing(metrics=[metric(limit=limit(rule="at_most", value=1.0), low=0.5, high=0.7)]), []
    )
    assert "tuned 0.500 to 0.700" in page
    assert "+0.500 to" not in page


def test_a_metric_without_a_limit_is_not_said_to_have_passed() -> None:
    for outcome in (None, Outcome.PASSED):
        page = render_html(passing(metrics=[metric(limit=None, outcome=outcome)], checks=[]), [])
        metrics = page.split('id="metrics"')[1].split('id="checks"')[0]
        assert "no limit" in metrics
        assert "tone-passed" not in metrics
        assert "not run" not in metrics


def test_a_long_answer_is_cut_and_the_page_says_where_all_of_it_is() -> None:
    page = render_html(incomplete(), [item(1, tuned_answer="w" * (TEXT_LIMIT + 1))])
    assert "The first 2000 of 2001 characters; the full text is in items.parquet." in page
    assert "w" * (TEXT_LIMIT + 1) not in page
    assert "the full text is in items.parquet" not in render_html(incomplete(), [item(1)])


def test_a_record_whose_items_are_gone_says_so() -> None:
    assert "was not next to the record" in render_html(passing(), [])
    assert "No answers were generated" in render_html(incomplete(), [])


def test_numbers_that_are_not_finite_do_not_break_the_page() -> None:
    nan, inf = float("nan"), float("inf")
    record = passing(
        metrics=[metric(low=-inf, high=inf), metric(base=nan, tuned=nan, difference=nan)],
        spectra=[replace(spectra()[0], frobenius=nan, singular_values=[nan, 1.0])],
        seconds="nan",
    )
    page = render_html(record, [item(1, base_loss=nan, tuned_loss=inf)])
    assert "no interval to draw" in page
    assert "1 not finite" in page


def test_the_page_is_small() -> None:
    assert len(render_html(passing(), []).encode()) < 60_000
    assert len(render_html(failing(), items(200)).encode()) < 500_000
    for asset in ("report.css", "report.js"):
        assert (TEMPLATES / asset).stat().st_size < 20_000


def test_one_answer_of_a_megabyte_does_not_make_the_page_large() -> None:
    row = item(1, base_answer=HOSTILE["long"], tuned_answer=HOSTILE["wide"] * 10)
    assert len(render_html(incomplete(), [row]).encode()) < 60_000


def test_a_config_of_a_megabyte_does_not_make_the_page_large() -> None:
    long = HOSTILE["long"]
    adapter = replace(passing().adapter, config={"r": long, "x": {"y": [long]}}, manifest=None)
    result = replace(failing().checks[5], message=long, fix=long, measured={"m": long})
    page = render_html(incomplete(adapter=adapter, checks=[result], reason=long), [])
    assert len(page.encode()) < 60_000
    assert "the full text is in record.json" in page


def test_a_report_without_a_verdict_claims_nothing_that_was_not_recorded() -> None:
    """A run may have been killed at any point: nothing is known about what it did."""
    bare = AdapterEntry(path="a", name="a", sha256={}, config={}, manifest=None)
    none = BaseEntry(id="", fingerprint="", config={})
    record = incomplete(adapter=bare, base=none, checks=(), metrics=(), timings=(), spectra=())
    page = render_html(record, ()).partition("<body>")[2].partition("<dialog")[0]
    for words in ("none loaded", "no manifest", "were made", "was run", "Took", "0 files"):
        assert words not in page
    assert "There is no verdict." in page
    summary = render_markdown(record)
    assert "There is no verdict." in summary
    assert "0 checks" not in summary


def shown_text(page: str) -> str:
    return " ".join(text for texts in Parsed(page).texts.values() for text in texts)


def with_base_warning(record: RunRecord) -> RunRecord:
    finding = BaseFinding(
        rule="basemodel-template-drops-turns",
        severity="warning",
        where="chat_template.jinja",
        message="the chat template leaves out system turns",
        fix="use another base",
    )
    unseen = (UnseenTurns(roles=("system", "user"), turns=(0,)),)
    return replace(record, base=replace(record.base, findings=(finding,), unseen=unseen))


def test_findings_about_the_base_are_shown_as_such() -> None:
    record = with_base_warning(passing())
    prompt_of = tuple(Turn(role=role, content=role) for role in ("system", "user"))
    page = shown_text(render_html(record, [item(1, prompt=prompt_of)]))
    assert "1 warning about it" in page
    assert "About the base, not the adapter" in page
    assert "basemodel-template-drops-turns at chat_template.jinja" in page
    assert "no model saw this turn: the base's chat template leaves it out" in page
    summary = render_markdown(record)
    assert "### About the base, not the adapter" in summary
    assert "- warning: `basemodel-template-drops-turns` at `chat_template.jinja`" in summary
    clean = shown_text(render_html(passing(), items()))
    assert "About the base" not in clean
    assert "About the base" not in render_markdown(passing())
