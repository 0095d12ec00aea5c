"""Workers of known cost and known misfortunes, for the real supervisor and real processes; they open no model."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evovlm.errors import ModelNotFound
from evovlm.evaluation.workers.jobs import Job, WorkerSettings
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.kinds import Recipe, parameter_merge_only
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.source_values import SourceParameters

_TEMPLATE = MergeTemplate(
    base=ModelRef(text="base"),
    host=ModelRef(text="base"),
    sources={"a": ModelRef(text="a")},
    method="task_arithmetic",
    seed=0,
    vocabulary="host",
)
FOREVER_S = 600.0


def stub_job(weight: float) -> Job:
    """Return a job whose evaluation has this weight for a fitness."""
    return Job(recipe=_TEMPLATE.recipe({"a": SourceParameters(weight=weight)}))


def weight_of(recipe: Recipe) -> float:
    """Return the weight that the job was made with."""
    weight = parameter_merge_only(recipe).parameters["a"].weight
    assert isinstance(weight, float)
    return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class StubOpening:
    """Opens workers whose jobs take `seconds` by weight, and meet with misfortunes by weight.

    A misfortune is one of: die, hang, out_of_memory, bug; with "once" behind it, it comes true once in all (`notes` is
    where that is noted). `refuse` is a file: where it is there, no worker opens.
    """

    notes: Path
    seconds: Mapping[float, float] = field(default_factory=dict)
    misfortunes: Mapping[float, str] = field(default_factory=dict)
    refuse: Path | None = None

    def open(self, settings: WorkerSettings) -> "StubWorkers":
        """Open one; raises ModelNotFound where it is to refuse."""
        if self.refuse is not None and self.refuse.exists():
            raise ModelNotFound(f"{self.refuse}: no such model.")
        return StubWorkers(self)


class StubWorkers:
    """One worker."""

    warnings = ("a stub",)

    def __init__(self, opening: StubOpening) -> None:
        self._opening = opening

    @property
    def sizes(self) -> Mapping[str, int]:
        """One task."""
        return {"stub": 3}

    @property
    def blocks(self) -> Mapping[str, int]:
        """One source."""
        return {"a": 2}

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        """Do the jobs. What was done by whom is noted in the folder."""
        for job in jobs:
            weight = weight_of(job.recipe)
            with (self._opening.notes / f"done-{weight}").open("a") as file:
                file.write(f"{os.getpid()}\n")
            yield self._failure(weight) or Evaluation(scores={}, fitness=weight, seconds={}, tokens=0)

    def close(self) -> None:
        """Nothing is held."""

    def _failure(self, weight: float) -> Failure | None:
        time.sleep(self._opening.seconds.get(weight, 0.0))
        what, _, once = self._opening.misfortunes.get(weight, "").partition(" ")
        if once:
            try:
                (self._opening.notes / f"once-{weight}").touch(exist_ok=False)
            except FileExistsError:
                return None
        match what:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(FOREVER_S)
            case "bug":
                raise ZeroDivisionError("a bug")
            case "out_of_memory":
                return Failure(kind="out_of_memory", reason="out of memory")
        return None
