"""The page as data: what to do, the tallies, and counts that are of all items."""

from dataclasses import replace

from phi3_lora_qa.record import Outcome, SettingEntry
from phi3_lora_qa.report.item_views import MAX_ITEMS
from phi3_lora_qa.report.page import build_page, rows_of, todo_results
from phi3_lora_qa.setting_specs import SourceKind
from tests.report.builders import checks, failing, incomplete, item, items, limit, metric, passing


def test_the_counts_are_of_all_items_and_not_of_those_on_the_page() -> None:
    worse = [item(1, id=f"w{n}", base_loss=1.0, tuned_loss=2.0, scores={}) for n in range(900)]
    better = [item(1, id=f"b{n}", base_loss=2.0, tuned_loss=1.0, scores={}) for n in range(1_100)]
    page = build_page(passing(), [*better, *worse])
    assert {view.label: view.count for view in page.filters} == {
        "All": 2_000, "Regressed": 900, "Improved": 1_100, "Different": 2_000,
    }  # fmt: skip
    assert (len(page.items), page.item_count) == (MAX_ITEMS, 2_000)


def test_the_page_names_the_metrics_that_judge_an_item() -> None:
    assert build_page(passing(metrics=[]), items()).labelled_by == "loss, exact_match, token_f1"
    limits = [metric(metric=name, limit=limit(metric=name)) for name in ("chrf", "agreement")]
    page = build_page(passing(metrics=[*limits, metric(metric="bleu", limit=None)]), items())
    assert page.labelled_by == "loss, exact_match, token_f1, chrf"


def test_what_to_do_has_the_worst_first_and_equal_messages_once() -> None:
    outcomes = [Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.FAILED, Outcome.ERROR]
    results = [
        replace(check, outcome=outcome, message=outcome.value, fix=f"rerun {check.id}")
        for outcome in outcomes
        for check in checks()[:2]
    ]
    found = todo_results([*results, *checks()])
    assert [entry[0].outcome for entry in found] == [
        Outcome.FAILED, Outcome.ERROR, Outcome.NOT_RUN, Outcome.INCONCLUSIVE,
    ]  # fmt: skip
    assert [len(entry) for entry in found] == [2, 2, 2, 2]


def test_a_stage_is_as_bad_as_its_worst_check() -> None:
    stages = {stage.name: stage for stage in build_page(failing(), []).stages}
    assert (stages["static"].tally, stages["static"].passed) == ("9 passed, 1 failed", False)
    assert stages["quality"].worst.result.outcome is Outcome.FAILED
    assert stages["math"].passed


def test_one_check_is_rerun_alone_and_several_with_the_whole_gate() -> None:
    assert [entry.rerun.split()[1] for entry in build_page(failing(), []).todo] == [
        "phi3::static::finite_values",
        "'phi3::quality::loss[general]'",
        "'phi3::quality::exact_match[target]'",
    ]
    (several,) = build_page(incomplete(), []).todo
    assert several.rerun == build_page(incomplete(), []).rerun


def test_the_pairs_of_a_mapping_are_sorted_by_name() -> None:
    assert rows_of({"b": 1, "a": 2, 3: 4}) == [("3", 4), ("a", 2), ("b", 1)]


def test_the_page_says_where_models_ran() -> None:
    environment = {**passing().environment, "device": "cuda:0", "dtype": "bfloat16"}
    assert build_page(passing(environment=environment), items()).device == "cuda:0, bfloat16"
    without_models = passing(environment=environment, timings=[])
    assert build_page(without_models, items()).device == ""


def test_the_page_names_no_device_for_a_server() -> None:
    environment = {**passing().environment, "device": "cpu", "dtype": "float32"}
    backend = SettingEntry(
        value="openai:http://localhost:8000/v1", source="--phi3-backend", kind=SourceKind.OPTION
    )
    record = passing(environment=environment, settings={"backend": backend})
    assert build_page(record, items()).device == ""
