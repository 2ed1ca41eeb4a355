"""The metrics as ``evaluate`` modules, instantiated directly: nothing is looked up on a hub."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import evaluate

from phi3_lora_qa.data.answer_checks import parse_checks
from phi3_lora_qa.metrics.answer_checks import all_hold, is_json
from phi3_lora_qa.metrics.text_metrics import (
    Words,
    exact_match,
    length_ratio,
    repetition,
    token_f1,
    words,
)


class AnswerMetric(evaluate.Metric):
    """A metric of one answer against one reference; ``compute`` gives a score for each pair.

    A metric of a user's own derives from it, writes ``score`` and, where they are others, the
    smallest and the largest score in ``span`` (None where there is no such bound). The larger a
    score, the better. ``binary`` scores are 0 or 1; their interval is then exact.
    """

    description = ""
    citation = ""
    span: tuple[float, float] | None = (0.0, 1.0)
    binary = False

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: the answers. references: one for each answer.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, list[float]]:
        pairs = zip(predictions, references, strict=True)
        return {"scores": [self.score(answer, reference) for answer, reference in pairs]}

    def score(self, answer: str, reference: str) -> float:
        """Return the score of one answer, within ``span``."""
        raise NotImplementedError(f"{type(self).__name__} has no score; write the method")


class ExactMatch(AnswerMetric):
    """1 where answer and reference are the same text after normalisation, else 0."""

    description = "Share of answers that equal their reference after normalisation."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0."""
        return exact_match(answer, reference)


class TokenF1(AnswerMetric):
    """F1 over the words that answer and reference share, without the marks around them (``%``)."""

    description = "Harmonic mean of precision and recall over words."
    citation = "Rajpurkar et al., SQuAD, EMNLP 2016"

    def score(self, answer: str, reference: str) -> float:
        """Return the F1 of one pair."""
        return token_f1(answer, reference)


class RougeL(AnswerMetric):
    """F over the longest common subsequence of words, through the package rouge-score.

    Where neither text has a word, the exact match decides, as it does for the words' F1.
    """

    description = "ROUGE-L, F measure."
    citation = "C.-Y. Lin, ROUGE, ACL workshop Text Summarization Branches Out, 2004"

    def score(self, answer: str, reference: str) -> float:
        """Return the F measure of one pair."""
        from rouge_score.rouge_scorer import RougeScorer

        if not words(answer) and not words(reference):
            return exact_match(answer, reference)
        scorer = RougeScorer(["rougeL"], tokenizer=Words())
        return float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure)


class ChrF(AnswerMetric):
    """chrF of one pair, through sacrebleu with its defaults (six characters, no words)."""

    description = "chrF2, character n-gram F score."
    citation = "M. Popovic, chrF, WMT 2015"

    def score(self, answer: str, reference: str) -> float:
        """Return the F score of one pair."""
        from sacrebleu.metrics.chrf import CHRF

        return min(1.0, CHRF().sentence_score(answer, [reference]).score / 100.0)


class Bleu(AnswerMetric):
    """BLEU of one pair, through sacrebleu: smoothed, over the n-grams that the pair can have."""

    description = "Sentence BLEU with effective order and exponential smoothing."
    citation = "Papineni et al., BLEU, ACL 2002; M. Post, sacreBLEU, WMT 2018"

    def score(self, answer: str, reference: str) -> float:
        """Return the score of one pair."""
        from sacrebleu.metrics.bleu import BLEU

        scorer = BLEU(effective_order=True)
        return min(1.0, scorer.sentence_score(answer, [reference]).score / 100.0)


class Repetition(AnswerMetric):
    """The share of repeated 4-grams of words in the answer, whatever the reference."""

    description = "Share of the answer's 4-grams that it has said before."
    citation = "Welleck et al., Neural Text Generation with Unlikelihood Training, ICLR 2020"

    def score(self, answer: str, reference: str) -> float:
        """Return the share; the reference plays no part."""
        return repetition(answer)


class Empty(AnswerMetric):
    """1 where the answer holds nothing but white space."""

    description = "Share of answers that are empty."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0; the reference plays no part."""
        return float(not answer.strip())


class LengthRatio(AnswerMetric):
    """The shorter over the longer of answer and reference, in words."""

    description = "Shorter over longer, in words."

    def score(self, answer: str, reference: str) -> float:
        """Return the ratio of one pair."""
        return length_ratio(answer, reference)


class CheckedMetric(AnswerMetric):
    """A metric that holds the answer against its item's checks: they stand in as the reference."""

    binary = True
    kinds: tuple[str, ...] = ()
    """The kinds of checks that count; all where it is empty."""

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 where all checks that count hold.

        Args:
            answer: The answer.
            reference: The checks as ``phi3_lora_qa.data.answer_checks.checks_json`` writes them.
        """
        checks = parse_checks(json.loads(reference), "the item")
        return float(
            all_hold([c for c in checks if not self.kinds or c.kind in self.kinds], answer)
        )


class Checks(CheckedMetric):
    """1 where the answer passes all checks of its item."""

    description = "Share of answers that pass all checks of their item."


class JsonValid(AnswerMetric):
    """1 where the answer is JSON, for items that ask for it."""

    description = "Share of answers that are JSON."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0; the reference plays no part."""
        return float(is_json(answer))


class RefusalAsExpected(CheckedMetric):
    """1 where the answer refuses just when it is to refuse."""

    description = "Share of answers that refuse, or do not, as their item expects."
    kinds = ("refusal",)


MODULES: dict[str, type[AnswerMetric]] = {
    "exact_match": ExactMatch,
    "token_f1": TokenF1,
    "rouge_l": RougeL,
    "chrf": ChrF,
    "bleu": Bleu,
    "checks": Checks,
    "json_valid": JsonValid,
    "refusal": RefusalAsExpected,
    "repetition": Repetition,
    "empty": Empty,
    "length_ratio": LengthRatio,
}


def compute(name: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Run one of the modules over all pairs."""
    with in_memory() as options:
        return each(MODULES[name](**options), answers, references)


@contextmanager
def in_memory() -> Iterator[dict[str, Any]]:
    """Yield the options of a module that leaves nothing behind.

    evaluate makes its folder even when it keeps everything in memory. The seed is given because it
    would otherwise read numpy's global one.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield {"keep_in_memory": True, "cache_dir": folder, "seed": 0}


def each(module: AnswerMetric, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the score of every pair."""
    scores = module.compute(
        predictions=[storable(text) for text in answers],
        references=[storable(text) for text in references],
    )
    return [float(score) for score in scores["scores"]]


def storable(text: str) -> str:
    """Arrow holds UTF-8 only; a lone surrogate is spelt out, so that it equals nothing else."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
