"""The jobs of a run: names, items and limits, prepared before anything runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.prepare import AdapterJob, adapter_names, hand_over, handed_over, prepare
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.settings import resolve


def prepare_jobs(tmp_path: Path, adapter: Path, **options: object) -> tuple[AdapterJob, ...]:
    given = {"adapter": [adapter], "base": "tiny", **options}
    return prepare(resolve(given, {}, {}, tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x", "b/x"], ("x", "x~2")),
        (["x~2", "a/x", "b/x"], ("x~2", "x", "x~3")),
        (["a/x", "x~2", "b/x"], ("x", "x~2", "x~3")),
        (["a/x", "b/x~2", "c/x", "d/x~2"], ("x", "x~2", "x~3", "x~2~2")),
    ],
)
def test_every_adapter_has_its_own_name(paths: list[str], names: tuple[str, ...]) -> None:
    assert adapter_names([Path(path) for path in paths]) == names


def test_an_impossible_cache_folder_is_bad_input(
    tmp_path: Path, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", "~nobody-here/cache")
    with pytest.raises(InputError, match="names an unknown user"):
        prepare_jobs(tmp_path, good_adapter)


def test_a_duplicate_item_counts_once(tmp_path: Path, good_adapter: Path) -> None:
    rows = [{"prompt": "one?", "reference": "1", "id": str(n)} for n in range(5)]
    rows += [
        {"prompt": "one?", "reference": "2", "id": "other reference"},
        {"prompt": "one?", "reference": "1", "id": "other group", "group": "general"},
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (job,) = prepare_jobs(tmp_path, good_adapter, suite=["s.jsonl"])
    assert [item.id for item in job.items] == ["0", "other reference", "other group"]
    assert job.copies == 4


def test_the_bundled_suite_has_its_own_limits(tmp_path: Path, good_adapter: Path) -> None:
    (own,) = prepare_jobs(tmp_path, good_adapter)
    assert ("target", "exact_match", "at_least") in {
        (limit.group, limit.metric, limit.rule) for limit in own.limits
    }
    suite = [{"prompt": "one?", "reference": "1"}]
    (tmp_path / "s.jsonl").write_text(json.dumps(suite[0]))
    (other,) = prepare_jobs(tmp_path, good_adapter, suite=["s.jsonl"])
    assert "at_least" not in {limit.rule for limit in other.limits}


def test_columns_and_metrics_come_from_the_settings(tmp_path: Path, good_adapter: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"question": "one?", "reference": "1"}))
    (tmp_path / "Polite.py").write_text("")
    (tmp_path / "t.toml").write_text(
        "[[limit]]\ngroup = 'target'\nmetric = 'Polite'\nrule = 'at_least'\nvalue = 0.5\n"
    )
    (job,) = prepare_jobs(
        tmp_path,
        good_adapter,
        suite=["s.jsonl"],
        suite_columns=["prompt=question"],
        metric=["chrf", "Polite.py"],
        thresholds="t.toml",
    )
    assert job.items[0].prompt[0].content == "one?"
    assert [metric.name for metric in job.metrics] == ["chrf", "Polite"]
    assert [limit.metric for limit in job.limits] == ["Polite"]


def test_a_metric_in_the_adapters_folder_is_refused(
    tmp_path: Path, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("adapter")
    (adapter / "Polite.py").write_text("")
    with pytest.raises(InputError, match=r"the metrics in .* are in the adapter's own folder"):
        prepare_jobs(tmp_path, adapter, metric=[str(adapter / "Polite.py")])


def test_columns_without_a_suite_and_equal_metric_names_are_bad_input(
    tmp_path: Path, good_adapter: Path
) -> None:
    with pytest.raises(InputError, match="suite-columns is set, but there is no suite"):
        prepare_jobs(tmp_path, good_adapter, suite_columns=["prompt=question"])
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "Polite.py", tmp_path / "a" / "Polite.py"):
        path.write_text("")
    with pytest.raises(InputError, match="two metrics have the same name"):
        prepare_jobs(tmp_path, good_adapter, metric=["Polite.py", "a/Polite.py"])


def test_every_process_has_the_same_jobs(tmp_path: Path, good_adapter: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"prompt": "one?", "reference": "1"}))
    found = prepare_jobs(tmp_path, good_adapter, suite=["s.jsonl"])
    hand_over(found, tmp_path)
    (tmp_path / "s.jsonl").write_text("changed")
    assert handed_over(tmp_path) == found


THEIRS = {
    "suite": ("suite.jsonl", "items of the suite"),
    "thresholds": ("limits.toml", "limits"),
    "baseline": ("accepted/record.json", "figures of the baseline"),
    "base": ("base", "files of the base"),
    "parent": ("base", "weights of the parent"),
}


@pytest.mark.parametrize("setting", THEIRS)
@pytest.mark.parametrize("linked", [False, True])
def test_inputs_in_an_adapters_folder_are_refused(
    setting: str, linked: bool, tmp_path: Path, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("theirs")
    name, words = THEIRS[setting]
    shutil.copytree(bundled("tiny") / "base", adapter / "base")
    (adapter / "accepted").mkdir()
    for file in ("suite.jsonl", "limits.toml", "accepted/record.json"):
        (adapter / file).write_text("")
    place = adapter / name
    if linked:
        place = tmp_path / "link"
        place.symlink_to(adapter / name)
    given: object = [str(place)] if setting == "suite" else str(place)
    with pytest.raises(InputError, match=rf"^the {words} in .* adapter's own folder, .* outside"):
        prepare_jobs(tmp_path, adapter, **{setting: given})


def test_a_parent_is_listed_and_handed_over(tmp_path: Path, good_adapter: Path) -> None:
    shutil.copytree(good_adapter, tmp_path / "parent")
    found = prepare_jobs(tmp_path, good_adapter, parent="parent")
    assert found[0].parent
    assert found[0].parent.path == tmp_path / "parent"
    hand_over(found, tmp_path)
    assert handed_over(tmp_path) == found


def test_a_parent_that_cannot_be_compared_is_bad_input(tmp_path: Path, good_adapter: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"cannot read the parent .*pass the folder"):
        prepare_jobs(tmp_path, good_adapter, parent="empty")
    with pytest.raises(InputError, match=r"the parent: cannot read .*no such folder"):
        prepare_jobs(tmp_path, good_adapter, parent="nowhere")
    shutil.copytree(good_adapter, tmp_path / "parent")
    with pytest.raises(InputError, match=r"the stage static.* does not run; add --phi3-stage"):
        prepare_jobs(tmp_path, good_adapter, parent="parent", stage=["quality"])


def test_links_into_an_adapters_folder_are_refused(
    tmp_path: Path, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("theirs")
    shutil.copytree(bundled("tiny") / "base", tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.rename(adapter / "poisoned.safetensors")
    weights.symlink_to(adapter / "poisoned.safetensors")
    with pytest.raises(InputError, match="files of the base"):
        prepare_jobs(tmp_path, adapter, base=str(tmp_path / "base"))


def test_a_score_cache_in_an_adapters_folder_is_refused(
    tmp_path: Path, adapter_copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_copy("theirs")
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(adapter / "cache"))
    with pytest.raises(InputError, match="cached scores of the base"):
        prepare_jobs(tmp_path, adapter)


def test_an_adapter_may_be_next_to_and_below_its_inputs(
    tmp_path: Path, adapter_copy: Callable[[str], Path]
) -> None:
    shutil.copytree(bundled("tiny") / "base", tmp_path / "base")
    adapter = adapter_copy("new").rename(tmp_path / "base" / "new")
    (tmp_path / "suite.jsonl").write_text(json.dumps({"prompt": "one?", "reference": "1"}))
    (job,) = prepare_jobs(tmp_path, adapter, base=str(tmp_path / "base"), suite=["suite.jsonl"])
    assert job.base is not None
