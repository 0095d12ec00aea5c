"""A metric: whether the answer begins with the first letter of a reference."""

from evovlm.tasks.metrics.scoring import Measured, Scoring
from evovlm.tasks.metrics.table import Metric
from evovlm.tasks.sample import Sample


def first_letter(sample: Sample, text: str, _scoring: Scoring) -> Measured:
    """Return 1 for each reference whose first letter is that of the answer, 0 for the others."""
    return Measured(values=tuple(float(text.strip()[:1] == reference[:1]) for reference in sample.references))


FIRST_LETTER = Metric(
    name="first_letter",
    description="the answer begins as the reference does",
    binary=True,
    measure=first_letter,
)
