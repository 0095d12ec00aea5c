"""Which samples of a search's tasks a generation's candidates are scored on, and which only its means."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import ConfigError
from evovlm.evaluation.workers.jobs import Rows
from evovlm.seeding import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParts:
    """The parts of the search split: the last `validation` samples of each task, and batches of the others.

    `sizes` are the tasks' numbers of samples, by name. Raises ConfigError when one has too few.
    """

    sizes: Mapping[str, int]
    seed: int
    batch: int | None
    validation: int | None

    def __post_init__(self) -> None:
        kept = self.validation or 0
        for name, size in self.sizes.items():
            if size - kept < (self.batch or 1):
                drawn = f"batches of {self.batch}" if self.batch else "the candidates"
                raise ConfigError(
                    f"task {name}: of its {size} samples, {kept} are kept for validation, which leaves too few for "
                    f"{drawn}.\n    Lower `batch` or `validation`, or raise the task's `limit`."
                )

    def of_candidates(self, generation: int) -> Rows | None:
        """Return the rows that a generation is scored on, a function of the seed and its number; None for all."""
        if self.batch is None:
            return tuple(tuple(range(size)) for size in self._left().values()) if self.validation else None
        rows = []
        for name, size in self._left().items():
            drawn = generator("batch", self.seed, generation, name).choice(size, size=self.batch, replace=False)
            rows.append(tuple(sorted(drawn.tolist())))
        return tuple(rows)

    def of_means(self) -> Rows | None:
        """Return the rows that the distribution's mean is evaluated on; None for all."""
        if self.validation is None:
            return None if self.batch is None else tuple(tuple(range(size)) for size in self.sizes.values())
        return tuple(tuple(range(size - self.validation, size)) for size in self.sizes.values())

    def _left(self) -> Mapping[str, int]:
        return {name: size - (self.validation or 0) for name, size in self.sizes.items()}
