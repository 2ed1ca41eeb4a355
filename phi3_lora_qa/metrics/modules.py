"""The metrics as ``evaluate`` modules, instantiated directly: nothing is looked up on a hub."""

import tempfile
from collections.abc import Sequence

import datasets
import evaluate

from phi3_lora_qa.metrics.text import Words, exact_match, token_f1


class AnswerMetric(evaluate.Metric):
    """A metric of one answer against one reference; ``compute`` gives a score for each pair."""

    description = ""
    citation = ""

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
        """Return the score of one answer, within [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} has no score; write the method")


class ExactMatch(AnswerMetric):
    """1 where answer and reference are the same text after normalisation, else 0."""

    description = "Share of answers that equal their reference after normalisation."

    def score(self, answer: str, reference: str) -> float:
        """Return 1.0 or 0.0."""
        return exact_match(answer, reference)


class TokenF1(AnswerMetric):
    """F1 over the words that answer and reference share."""

    description = "Harmonic mean of precision and recall over words."
    citation = "Rajpurkar et al., SQuAD, EMNLP 2016"

    def score(self, answer: str, reference: str) -> float:
        """Return the F1 of one pair."""
        return token_f1(answer, reference)


class RougeL(AnswerMetric):
    """F over the longest common subsequence of words, through the package rouge-score."""

    description = "ROUGE-L, F measure."
    citation = "C.-Y. Lin, ROUGE, ACL workshop Text Summarization Branches Out, 2004"

    def score(self, answer: str, reference: str) -> float:
        """Return the F measure of one pair."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], tokenizer=Words())
        return float(scorer.score(target=reference, prediction=answer)["rougeL"].fmeasure)


MODULES: dict[str, type[AnswerMetric]] = {
    "exact_match": ExactMatch,
    "token_f1": TokenF1,
    "rouge_l": RougeL,
}


def compute(name: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Run one module over all pairs, in memory, with its folder in a temporary place."""
    with tempfile.TemporaryDirectory() as folder:
        # evaluate makes its folder even when it keeps everything in memory. The seed is given
        # because it would otherwise read numpy's global one.
        module = MODULES[name](keep_in_memory=True, cache_dir=folder, seed=0)
        scores = module.compute(
            predictions=[_storable(text) for text in answers],
            references=[_storable(text) for text in references],
        )
    return [float(score) for score in scores["scores"]]


def _storable(text: str) -> str:
    """Arrow holds UTF-8 only; a lone surrogate is spelt out, so that it equals nothing else."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
