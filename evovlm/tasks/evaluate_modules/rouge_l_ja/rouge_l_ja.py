"""Our ROUGE-L over Japanese words as a module of the `evaluate` library: `evaluate.load(THIS_FOLDER)`."""

import datasets
import evaluate

from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import score_answers
from evovlm.tasks.sample import Sample


class RougeLJa(evaluate.Metric):  # type: ignore[misc]
    """The mean over all answers, in [0, 1]; `gate` names a language gate (script, fasttext) or is None."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-L (F1) over MeCab words, as in arXiv 2403.13187.",
            citation="",
            inputs_description="predictions and references: lists of texts; gate: None, 'script' or 'fasttext'.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str], gate: str | None = None) -> dict[str, float]:
        samples = [Sample(id=str(n), question="", references=(each,)) for n, each in enumerate(references)]
        scores = score_answers(Scoring(metric="rouge_l_ja", gate=gate), samples, predictions)
        return {"rouge_l_ja": sum(each.score for each in scores) / len(scores)}
