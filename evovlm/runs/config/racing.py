"""`racing:` of a search's config: how few samples a generation is ranked with."""

from pydantic import Field, field_validator

from evovlm.runs.config.sections import Section, known_row
from evovlm.runs.searching.samples import INFORMATIVE, ORDERS


class RacingSection(Section):
    """Candidates are scored on block after block of samples; those whose rank is clear enough stop (search/racing.py).

    The first block has `first` samples of all tasks together; after each further one a candidate has seen `growth`
    times as many, up to the share `limit` of the samples that there are for a generation. `error` bounds how likely the
    worse of two candidates is taken for the better one at some time of a race. `order` says which samples come first.
    With `smooth`, what few samples say of a candidate is put together with what they say of those near it.
    """

    first: int = Field(default=10, ge=2)
    growth: float = Field(default=2.0, gt=1)
    error: float = Field(default=0.1, gt=0, lt=1)
    limit: float = Field(default=0.2, gt=0, le=1)
    order: str = INFORMATIVE
    smooth: bool = True

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        return known_row(order, ORDERS, "order")
