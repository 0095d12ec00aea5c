"""What a look at the models of a merge found: the models, what stands against it, what it needs and becomes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from evovlm.errors import EvovlmError, ModelError
from evovlm.merging.before.needs import Needs
from evovlm.merging.checkpoint.licences import Binding
from evovlm.merging.checkpoint.sources import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model of a merge, as its headers and its card describe it; sizes are those of all its weights."""

    name: str
    text: str
    commit: str | None
    model_type: str
    text_model_type: str
    n_blocks: int
    hidden_size: int
    vocabulary_rows: int
    dtype: str
    licence: str
    size_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSize:
    """How large the merged model is: decoder blocks, weights, and bytes of weights on disk.

    `at_most`: it is the largest of those that a search can find.
    """

    n_blocks: int
    n_parameters: int
    size_bytes: int
    at_most: bool = False

    @staticmethod
    def like(checkpoint: Checkpoint) -> "ResultSize":
        """Return the size of a checkpoint that is there already."""
        places = checkpoint.places.values()
        return ResultSize(
            n_blocks=checkpoint.layout.n_blocks,
            n_parameters=sum(math.prod(place.shape) for place in places),
            size_bytes=sum(place.size_bytes for place in places),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSize:
    """How large a search is: its genes, how many of them pick among options, the candidates of a generation.

    `generations` is how many of them the budget holds; None where that is not known beforehand.
    """

    genes: int
    categorical: int
    population: int
    generations: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a look at the models found. `needs`, `result` and `search` are None when the models do not tell.

    `search` is of a search alone.
    """

    models: tuple[ModelReport, ...]
    problems: tuple[EvovlmError, ...]
    warnings: tuple[str, ...]
    needs: Needs | None
    licence: Binding
    result: ResultSize | None = None
    search: SearchSize | None = None

    def raise_problems(self) -> None:
        """Raise the problem that was found; several are raised as one error that lists them all."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            kinds = {type(problem) for problem in self.problems}
            same = kinds.pop() if len(kinds) == 1 else None
            are_models = all(isinstance(problem, ModelError) for problem in self.problems)
            kind = same or (ModelError if are_models else EvovlmError)
            raise kind("\n".join([f"{len(self.problems)} problems:", *(f"  - {problem}" for problem in self.problems)]))

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "ok": not self.problems,
            "models": [asdict(model) for model in self.models],
            "errors": [{"kind": type(problem).__name__, "message": str(problem)} for problem in self.problems],
            "warnings": list(self.warnings),
            "needs": asdict(self.needs) if self.needs else None,
            "result": asdict(self.result) if self.result else None,
            "search": asdict(self.search) if self.search else None,
            "licence": str(self.licence.licence) if self.licence.licence else None,
            "licence_reasons": list(self.licence.reasons),
        }
