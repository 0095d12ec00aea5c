"""What a preflight of a merge found: the models, problems and warnings, and what the merge needs and results in."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from evovlm.errors import EvovlmError, ModelError
from evovlm.merging.before.needs import Needs
from evovlm.merging.checkpoint.licences import Binding
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.chat_change import ChatChange


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model of a merge, as its headers and its card describe it; sizes count all its weights.

    `recognised` says how its language model was found, where it is, and what is not merged.
    """

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
    recognised: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSize:
    """The size of the merged model: decoder blocks, weights, and bytes of weights on disk.

    `at_most` says that it is the largest model that a search can find.
    """

    n_blocks: int
    n_parameters: int
    size_bytes: int
    at_most: bool = False

    @staticmethod
    def like(checkpoint: Checkpoint) -> "ResultSize":
        """Return the size of an existing checkpoint."""
        places = checkpoint.places.values()
        return ResultSize(
            n_blocks=checkpoint.layout.n_blocks,
            n_parameters=sum(math.prod(place.shape) for place in places),
            size_bytes=sum(place.size_bytes for place in places),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSize:
    """The size of a search: its genes, how many of them choose among options, the candidates of a generation.

    `generations` is how many generations the budget allows; None if that is not known beforehand.
    """

    genes: int
    categorical: int
    population: int
    generations: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMemory:
    """What a search holds in memory: on one device, which `workers` share, and on the machine, of all `processes`.

    Each worker holds `model_bytes`, and of the `sources_bytes` of base and sources `kept_bytes` (`kept_in` says where);
    the rest is read again for each candidate. An answer in progress takes `answer_bytes` of the `engine` for up to
    `answer_tokens` tokens, prompt included; `answers_at_once` fit beside the rest. `files_bytes` of models are read
    through the page cache. Free memory that is not known is None.
    """

    where: str
    free_bytes: int | None
    workers: int
    model_bytes: int
    sources_bytes: int
    kept_bytes: int
    kept_in: str
    engine: str
    answer_tokens: int
    answer_bytes: int
    answers_at_once: int
    processes: int
    processes_bytes: int
    files_bytes: int
    machine_free_bytes: int | None

    @property
    def read_again_bytes(self) -> int:
        """The bytes of base and sources that are read again for each candidate."""
        return self.sources_bytes - self.kept_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found. `needs` and `result` are None if the models do not allow to compute them.

    `search` and `memory` are only for searches, else None; `notes` say what was decided about their data. `chat` is
    what the result takes in place of the host's chat template.
    """

    models: tuple[ModelReport, ...]
    problems: tuple[EvovlmError, ...]
    warnings: tuple[str, ...]
    needs: Needs | None
    licence: Binding
    result: ResultSize | None = None
    search: SearchSize | None = None
    chat: ChatChange | None = None
    notes: tuple[str, ...] = ()
    memory: SearchMemory | None = None

    def raise_problems(self) -> None:
        """Raise the problem that was found; several problems are raised as one error that lists them all."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            kinds = {type(problem) for problem in self.problems}
            same = kinds.pop() if len(kinds) == 1 else None
            are_models = all(isinstance(problem, ModelError) for problem in self.problems)
            kind = same or (ModelError if are_models else EvovlmError)
            raise kind("\n".join([f"{len(self.problems)} problems:", *(f"  - {problem}" for problem in self.problems)]))

    def as_json(self) -> Mapping[str, object]:
        """Return everything as plain values."""
        return {
            "ok": not self.problems,
            "models": [asdict(model) for model in self.models],
            "errors": [{"kind": type(problem).__name__, "message": str(problem)} for problem in self.problems],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "needs": asdict(self.needs) if self.needs else None,
            "result": asdict(self.result) if self.result else None,
            "search": asdict(self.search) if self.search else None,
            "memory": asdict(self.memory) if self.memory else None,
            "licence": str(self.licence.licence) if self.licence.licence else None,
            "licence_reasons": list(map(str, self.licence.reasons)),
        }
