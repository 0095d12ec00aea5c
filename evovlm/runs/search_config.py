"""What the configs of all searches have in common, whatever they search."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.document_parts import Document
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.racing_config import RacingSection
from evovlm.runs.sections import GuardSection, ReportSection, Section, TaskSection, known_row, task_of
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.optimizer import DEFAULT_SIGMA, Levels, default_population

SMALLEST_POPULATION = 4
RESCORED_AFTER_RACES = 3

Winner = Literal["best", "mean", "snapshot"]


class OptimizerSection(Section):
    """`optimizer:` how the search moves; `sigma` is the first step size in the unit cube."""

    kind: str = "cma"
    sigma: float = Field(default=DEFAULT_SIGMA, gt=0, le=1)
    population: int | None = None

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_row(kind, OPTIMIZERS, "optimizer")

    @field_validator("population")
    @classmethod
    def _large_enough(cls, population: int | None) -> int | None:
        if population is not None and population < SMALLEST_POPULATION:
            raise PydanticCustomError(
                "population",
                "should be {least} or more: fewer candidates cannot be ranked into a direction",
                {"least": SMALLEST_POPULATION},
            )
        return population


class BudgetSection(Section):
    """`budget:` how many candidates are evaluated; only whole generations are, so a rest is left over."""

    candidates: int = Field(ge=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """A search space and what its points are recipes of; `initial` and `levels` have shape (dim,)."""

    initial: Genome
    levels: Levels
    recipe: Callable[[Genome], Recipe]

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return len(self.initial)


class SearchConfig(Section):
    """A whole search.

    `batch`: of each task, so many samples are drawn anew for each generation, the same for all its candidates (None:
    all of them). `validation`: the last so many samples of each task are kept from the candidates; the distribution's
    mean is evaluated on them before each generation and at the end. `racing`: candidates are scored on as few samples
    as it takes to rank them. `rescore`: at the end, so many of the best candidates are scored again in full, as the
    mean is (None: 3 after races, else none). `winner`: the best candidate (where there are some scored again, the best
    of them and the mean), the last mean, or the mean that did best on the validation samples (`snapshot`).
    """

    format: Literal[1]
    kind: Literal["evolve"]
    seed: int = 0
    merge: Document
    space: Section
    optimizer: OptimizerSection = OptimizerSection()
    budget: BudgetSection
    tasks: list[TaskSection] = Field(min_length=1)
    report: list[ReportSection] = Field(default=[])
    guard: GuardSection | None = None
    batch: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=None, ge=1)
    racing: RacingSection | None = None
    rescore: int | None = Field(default=None, ge=0)
    winner: Winner = Field(default="best", validate_default=True)
    device: str = "auto"

    @field_validator("tasks", "report")
    @classmethod
    def _tasks_differ(cls, sections: list[ReportSection], info: ValidationInfo) -> list[ReportSection]:
        # A task of one's own is known in results by the name that its file gives it.
        known = [(task_of(section.name, info), section.name) for section in sections]
        names = [written if task is None else task.name for task, written in known]
        if len(set(names)) < len(names):
            raise PydanticCustomError("tasks", "a task is named twice; give it one entry")
        return sections

    @field_validator("winner")
    @classmethod
    def _can_be_told(cls, winner: Winner, info: ValidationInfo) -> Winner:
        if winner == "snapshot" and info.data.get("validation") is None:
            raise PydanticCustomError(
                "winner", "is the mean that did best on the validation samples, and there are none; set `validation`"
            )
        others = next((key for key in ("racing", "batch") if info.data.get(key) is not None), None)
        if winner == "best" and others and not _rescored(info.data.get("rescore"), racing=others == "racing"):
            raise PydanticCustomError(
                "winner",
                "candidates of two generations are scored on other samples (`{others}`); "
                "take snapshot or mean, or set `rescore`",
                {"others": others},
            )
        return winner

    @property
    def rescored(self) -> int:
        """How many of the best candidates are scored again in full."""
        return _rescored(self.rescore, racing=self.racing is not None)

    @abstractmethod
    def template(self, *, relative_to: Path | None) -> MergeTemplate | PathTemplate:
        """Return what the search keeps fixed of every recipe."""

    @abstractmethod
    def resolved_merge(self, *, relative_to: Path | None) -> Document:
        """Return `merge` with its host named and every path absolute."""

    @abstractmethod
    def searched(self, *, template: MergeTemplate | PathTemplate, blocks: Mapping[str, int]) -> Searched:
        """Return what is searched, for sources that have so many blocks, by name."""

    @abstractmethod
    def searched_again(
        self, *, template: MergeTemplate | PathTemplate, blocks: Mapping[str, int], genome: Genome
    ) -> Searched:
        """Return what a run searched, from what its journal holds: `blocks` of its header, and any genome."""

    def resolved(self, *, relative_to: Path | None) -> Self:
        """Return the same search with its host named and every path absolute, so that it holds from any folder.

        Relative paths start at `relative_to` (None: the current folder). Raises ConfigError when the host is unclear.
        """
        folder = relative_to or Path()
        sections: dict[str, object] = {
            "tasks": [task.resolved(folder) for task in self.tasks],
            "report": [task.resolved(folder) for task in self.report],
            "guard": None if self.guard is None else self.guard.resolved(folder),
        }
        return self.model_copy(update={"merge": self.resolved_merge(relative_to=relative_to), **sections})

    def guarded(self, *, near_pictures: str | None, threshold: float | None) -> Self:
        """Return the same search with another guard; None leaves what `guard:` says.

        Raises ConfigError for a threshold without a model.
        """
        if near_pictures is None and threshold is None:
            return self
        asked = {"near_pictures": near_pictures, "threshold": threshold}
        said = {} if self.guard is None else self.guard.model_dump()
        said |= {name: value for name, value in asked.items() if value is not None}
        if "near_pictures" not in said:
            raise ConfigError("a threshold for near pictures needs a model: --near-pictures, or guard.near_pictures.")
        return self.model_copy(update={"guard": GuardSection(**said)})

    def population(self, *, dim: int) -> int:
        """Return the candidates of one generation. Raises ConfigError when the budget holds no whole generation."""
        population = self.optimizer.population or default_population(dim)
        if self.budget.candidates < population:
            raise ConfigError(
                f"budget.candidates is {self.budget.candidates}, but one generation of this space ({dim} genes) has "
                f"{population} candidates.\n    Raise the budget, or set optimizer.population lower "
                f"({SMALLEST_POPULATION} or more)."
            )
        return population

    def as_mapping(self) -> Mapping[str, object]:
        """Return the config as plain values, with every default written out."""
        return dict(self.model_dump(mode="json", by_alias=True))

    def to_yaml(self) -> str:
        """Return the config as YAML text that `load_config` reads back."""
        text: str = yaml.safe_dump(dict(self.as_mapping()), sort_keys=False, allow_unicode=True)
        return text


def _rescored(asked: int | None, *, racing: bool) -> int:
    return (RESCORED_AFTER_RACES if racing else 0) if asked is None else asked
