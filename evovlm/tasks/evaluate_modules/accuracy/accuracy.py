"""Our accuracy of worked answers as a module of the `evaluate` library: `evaluate.load(THIS_FOLDER)`."""

import datasets
import evaluate

from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import score_answers
from evovlm.tasks.sample import Sample


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """The share of answers that end in the right number; `extractor` and `gate` name rows of ours."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Whether the number that a worked answer ends in is the reference, as in arXiv 2403.13187.",
            citation="",
            inputs_description="predictions: texts; references: numbers as texts; extractor: 'robust' or 'paper'; "
            "gate: None, 'script' or 'fasttext'.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], extractor: str = "robust", gate: str | None = None
    ) -> dict[str, float]:
        samples = [Sample(id=str(n), question="", references=(each,)) for n, each in enumerate(references)]
        scoring = Scoring(metric="accuracy", extractor=extractor, gate=gate)
        scores = score_answers(scoring, samples, predictions)
        return {"accuracy": sum(each.score for each in scores) / len(scores)}
