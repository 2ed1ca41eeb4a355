"""The built-in metrics as ``evaluate`` modules, created directly instead of loaded from a hub."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import evaluate

from phi3_lora_qa.data.answer_checks import parse_checks
from phi3_lora_qa.metrics.answer_checks import all_pass, is_json
from phi3_lora_qa.metrics.text_metrics import (
    WordTokenizer,
    exact_match,
    length_ratio,
    repetition,
    token_f1,
    words,
)
from phi3_lora_qa.unicode_surrogates import escape_surrogates


class AnswerMetric(evaluate.Metric):
    """A metric of one answer against one reference; derive your own metric from it.

    Write ``score``. Larger scores must be better. ``compute`` returns one score for each pair.

    Attributes:
        span: The smallest and the largest possible score; None if the score is unbounded.
        binary: Scores are 0 or 1, and so their confidence interval is exact.

    Example:
        >>> from phi3_lora_qa.metrics import AnswerMetric
        >>> class StartsAlike(AnswerMetric):
        ...     binary = True
        ...
        ...     def score(self, answer: str, reference: str) -> float:
        ...         return float(answer[:1] == reference[:1])
        >>> StartsAlike(keep_in_memory=True, seed=0).compute(
        ...     predictions=["Rome", "Oslo"], references=["Riga", "Bonn"]
        ... )
        {'scores': [1.0, 0.0]}
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
        """Return the score of one answer.

        Args:
            answer: What the model wrote.
            reference: What the suite expects.

        Returns:
            A number within ``span``.

        Raises:
            NotImplementedError: The class does not define ``score``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score; define the method")


class ExactMatch(AnswerMetric):
    """1 if answer and reference are the same text after normalisation, else 0."""

    description = "Share of answers that equal their reference after normalisation."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0."""
        return exact_match(answer, reference)


class TokenF1(AnswerMetric):
    """F1 over the words of answer and reference, without surrounding punctuation."""

    description = "Harmonic mean of precision and recall over words."
    citation = "Rajpurkar et al., SQuAD, EMNLP 2016"

    def score(self, answer: str, reference: str) -> float:
        """Return the F1 of one pair."""
        return token_f1(answer, reference)


class RougeL(AnswerMetric):
    """F measure of the longest common subsequence of words, by the package rouge-score.

    If neither text has a word, the score is that of the exact match, as for F1.
    """

    description = "ROUGE-L, F measure."
    citation = "C.-Y. Lin, ROUGE, ACL workshop Text Summarization Branches Out, 2004"

    def score(self, answer: str, reference: str) -> float:
        """Return the F measure of one pair."""
        from rouge_score.rouge_scorer import RougeScorer

        if not words(answer) and not words(reference):
            return exact_match(answer, reference)
        scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
        return float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure)


class ChrF(AnswerMetric):
    """chrF of one pair, by sacrebleu with its defaults (6-grams of characters, no words)."""

    description = "chrF2, character n-gram F score."
    citation = "M. Popovic, chrF, WMT 2015"

    def score(self, answer: str, reference: str) -> float:
        """Return the F score of one pair."""
        from sacrebleu.metrics.chrf import CHRF

        return min(1.0, CHRF().sentence_score(answer, [reference]).score / 100.0)


class Bleu(AnswerMetric):
    """BLEU of one pair, by sacrebleu: smoothed, with effective order for short texts."""

    description = "Sentence BLEU with effective order and exponential smoothing."
    citation = "Papineni et al., BLEU, ACL 2002; M. Post, sacreBLEU, WMT 2018"

    def score(self, answer: str, reference: str) -> float:
        """Return the score of one pair."""
        from sacrebleu.metrics.bleu import BLEU

        scorer = BLEU(effective_order=True)
        return min(1.0, scorer.sentence_score(answer, [reference]).score / 100.0)


class Repetition(AnswerMetric):
    """The share of the answer's word 4-grams that repeat an earlier one; ignores the reference."""

    description = "Share of the answer's 4-grams that repeat an earlier one."
    citation = "Welleck et al., Neural Text Generation with Unlikelihood Training, ICLR 2020"

    def score(self, answer: str, reference: str) -> float:
        """Return the share; the reference is ignored."""
        return repetition(answer)


class Empty(AnswerMetric):
    """1 if the answer is empty or only white space."""

    description = "Share of answers that are empty."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0; the reference is ignored."""
        return float(not answer.strip())


class LengthRatio(AnswerMetric):
    """The shorter length over the longer one, of answer and reference in words."""

    description = "Shorter length over longer length, in words."

    def score(self, answer: str, reference: str) -> float:
        """Return the ratio of one pair."""
        return length_ratio(answer, reference)


class CheckedMetric(AnswerMetric):
    """A metric of an answer against its item's checks, which take the place of the reference.

    Attributes:
        kinds: The kinds of checks that count; empty for all kinds.
    """

    binary = True
    kinds: tuple[str, ...] = ()

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 if the answer passes all checks that count, else 0.0.

        Args:
            answer: The answer.
            reference: The checks as JSON, from ``phi3_lora_qa.data.answer_checks.checks_json``.
        """
        checks = parse_checks(json.loads(reference), "the item")
        return float(
            all_pass([c for c in checks if not self.kinds or c.kind in self.kinds], answer)
        )


class Checks(CheckedMetric):
    """1 if the answer passes all checks of its item, else 0."""

    description = "Share of answers that pass all checks of their item."


class JsonValid(AnswerMetric):
    """1 if the answer is JSON, else 0; for items with a check of JSON."""

    description = "Share of answers that are JSON."
    binary = True

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0; the reference is ignored."""
        return float(is_json(answer))


class RefusalAsExpected(CheckedMetric):
    """1 if the answer refuses or helps as its item expects, else 0."""

    description = "Share of answers that refuse or help as their item expects."
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
    """Return the scores of all pairs by the built-in metric of a name."""
    with in_memory() as options:
        return score_pairs(MODULES[name](**options), answers, references)


@contextmanager
def in_memory() -> Iterator[dict[str, Any]]:
    """Yield options for an ``evaluate`` module that writes only to a temporary folder.

    evaluate creates a cache folder even if it keeps everything in memory, and reads numpy's global
    seed if none is passed.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield {"keep_in_memory": True, "cache_dir": folder, "seed": 0}


def score_pairs(
    module: AnswerMetric, answers: Sequence[str], references: Sequence[str]
) -> list[float]:
    """Return the score of every pair of an answer and the reference at the same position."""
    scores = module.compute(
        predictions=[escape_surrogates(text) for text in answers],
        references=[escape_surrogates(text) for text in references],
    )
    return [float(score) for score in scores["scores"]]
