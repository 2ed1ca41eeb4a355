"""A user's own metric: a class or the path of an evaluate module, found without an import."""

import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import DataError
from phi3_lora_qa.metrics import RequestedMetric, find_metric, metrics_to_measure, per_item

CLASS = """
from phi3_lora_qa.metrics import AnswerMetric


class Vowels(AnswerMetric):
    span = (0.0, 100.0)

    def score(self, answer: str, reference: str) -> float:
        return float(sum(letter in "aeiou" for letter in answer))


class Infinite(AnswerMetric):
    def score(self, answer: str, reference: str) -> float:
        return float("inf")


class Broken(AnswerMetric):
    def score(self, answer: str, reference: str) -> float:
        raise ZeroDivisionError("no letters")


class Leaving(AnswerMetric):
    def score(self, answer: str, reference: str) -> float:
        raise SystemExit(0)


class Picky(AnswerMetric):
    def score(self, answer: str, reference: str) -> float:
        return 1.0 if answer == "see" else 1 / 0


class Unsure(AnswerMetric):
    binary = True

    def score(self, answer: str, reference: str) -> float:
        return 1.0 if answer == "see" else 0.5


class Percent(AnswerMetric):
    def score(self, answer: str, reference: str) -> float:
        return 80.0


class Reversed(AnswerMetric):
    span = (1.0, 0.0)


class Wordy(AnswerMetric):
    span = "from 0 to 1"


class Huge(AnswerMetric):
    span = None

    def score(self, answer: str, reference: str) -> float:
        return 1e60 if answer == "see" else -1e308


class Nan(AnswerMetric):
    span = None

    def score(self, answer: str, reference: str) -> float:
        return float("nan")


class Wide(AnswerMetric):
    span = (-1e308, 1e308)


class Few(AnswerMetric):
    def _compute(self, *, predictions, references):
        return {"scores": [1.0]}


class Plain:
    pass
"""
SCRIPT = """
import datasets
import evaluate


class Length(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        return RESULT
"""
ITEMS = [Item(id=text, prompt=(), reference=text) for text in ("a", "b")]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def script(folder: Path, name: str, result: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(SCRIPT.replace("RESULT", result))
    return path


def scored(metric: RequestedMetric) -> list[float]:
    info = next(info for info in metrics_to_measure([metric], ()) if info.import_path)
    return per_item(info, ITEMS, ["see", "\ud800 why"])


def test_a_class_has_its_own_name_span_and_scores(package: str, tmp_path: Path) -> None:
    metric = find_metric(f"{package}:Vowels", tmp_path)
    assert metric.name == "Vowels"
    assert metric.file == tmp_path / f"{package}.py"
    (info,) = [info for info in metrics_to_measure([metric, metric], ()) if info.import_path]
    assert (info.name, info.span, info.binary, info.higher_is_better) == (
        "Vowels", (0.0, 100.0), False, True,
    )  # fmt: skip
    assert scored(metric) == [2.0, 1.0]  # the escape \ud800 holds a u


def test_an_evaluate_module_is_called_for_each_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    result = '{"letters": len(predictions[0]), "length": len(predictions), "kind": "a"}'
    script(tmp_path / "length", "length", result)
    metric = find_metric("length", tmp_path)
    assert (metric.name, metric.file) == ("length", tmp_path / "length")
    assert scored(metric) == [1.0, 1.0]
    assert scored(find_metric(str(script(tmp_path, "letters", result)), tmp_path)) == [3.0, 10.0]
    small = script(tmp_path, "small", '{"small": __import__("numpy").float32(0.5)}')
    assert scored(find_metric(str(small), tmp_path)) == [0.5, 0.5]


def test_several_numbers_under_other_names_are_rejected(tmp_path: Path) -> None:
    path = script(tmp_path, "several", '{"a": 1, "b": 2}')
    with pytest.raises(DataError, match="returned a, b instead of one number"):
        scored(find_metric(str(path), tmp_path))


def test_the_name_of_a_built_in_metric_is_rejected(tmp_path: Path) -> None:
    assert find_metric("chrf", tmp_path) == RequestedMetric(name="chrf")
    path = script(tmp_path, "loss", "{}")
    with pytest.raises(DataError, match="has the name of a built-in metric"):
        find_metric(str(path), tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no_such_module_here:Vowels", "there is no module no_such_module_here"),
        ("no_such.module:Vowels", "there is no module no_such.module"),
        ("{package}:Vowel", "has no class Vowel"),
        ("somewhere.py", "there is no metric somewhere.py"),
        ("bert score", "there is no metric bert score"),
        ("", "there is no metric"),
        ("my-metric.py", "cannot be the name of a metric"),
        ("~nobody_of_this_name/a.py", "there is no metric ~nobody"),
        ("a" * 5000 + ".py", "there is no metric aaa"),
        ("crashing{package}.inner:Vowels", "cannot be imported .ZeroDivisionError: division"),
        ("leaving{package}.inner:Vowels", "cannot be imported .SystemExit: 3"),
    ],
)
def test_a_metric_that_does_not_exist_is_rejected_before_anything_runs(
    text: str, complaint: str, package: str, tmp_path: Path
) -> None:
    (tmp_path / "my-metric.py").write_text("")
    for name, code in (("crashing", "1 / 0"), ("leaving", "raise SystemExit(3)")):
        (tmp_path / f"{name}{package}").mkdir()
        (tmp_path / f"{name}{package}" / "__init__.py").write_text(code)
    with pytest.raises(DataError, match=complaint):
        find_metric(text.format(package=package), tmp_path)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Plain", "is not a metric|cannot be loaded"),
        ("Broken", "failed at the item a .ZeroDivisionError: no letters"),
        ("Infinite", "returned inf for the item a, which is not a number from 0 to 1"),
        ("Picky", "failed at the item b .ZeroDivisionError"),
        ("Leaving", "failed at the item a .SystemExit"),
        ("Unsure", "returned 0.5 for the item b, which is not 0 or 1; fix the metric"),
        (
            "Percent",
            "returned 80 for the item a, which is not a number from 0 to 1; fix the",
        ),
        ("Reversed", r"has the span .1.0, 0.0.; set the smallest"),
        ("Wordy", "has the span 'from 0 to 1'; set the smallest"),
        # The largest span allowed, so that the fix cannot be a larger span.
        (
            "Huge",
            "returned -1e.308 for .* b, .* from -1e.60 to 1e.60; fix the metric, or scale",
        ),
        (
            "Nan",
            "returned nan for .* a, .* from -1e.60 to 1e.60; fix the metric, or scale its",
        ),
        ("Wide", r"has the span .-1e.308, 1e.308.; set the smallest"),
        ("Few", "returned 1 scores for 2 answers"),
    ],
)
def test_a_broken_metric_is_reported_by_name(
    name: str, complaint: str, package: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        scored(find_metric(f"{package}:{name}", tmp_path))
    assert f"{package}:{name}" in str(caught.value)


def test_finding_a_class_does_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("class Loud: ...\nraise SystemExit('imported')\n")
    code = (
        "import sys, pathlib; from phi3_lora_qa.metrics import find_metric; "
        "print(find_metric('loud:Loud', pathlib.Path()).name); "
        "assert not {'evaluate', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Loud\n"
