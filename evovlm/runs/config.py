"""The config of a search, as people write it (YAML), with every problem of a file reported at once.

format: 1
kind: evolve
seed: 42
merge: {base: zoo:base, sources: {math: zoo:math-a, ja: zoo:ja}, method: dare_ties, seed: 42}
space: {kind: layer, weight: [0, 1], density: [0, 1]}
optimizer: {kind: cma}
budget: {candidates: 100}
tasks: [{name: word_problems_ja, limit: 160}]
winner: best
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.merging.methods import METHODS, get_method
from evovlm.recipes.candidate import Genome
from evovlm.recipes.documents import MergeDocument, read_yaml, report_problems
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.search_space import SPACES, SearchSpace
from evovlm.runs.sections import ReportSection, Section, TaskSection, known_row, task_of
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.optimizer import DEFAULT_SIGMA, default_population

SMALLEST_POPULATION = 4
_WHOLE = [0.0, 1.0]


class SpaceSection(Section):
    """`space:` what the search varies; `weight` and `density` are ranges, `fixed` holds numbers that stay."""

    kind: str = "model"
    weight: list[float] = Field(default=_WHOLE, min_length=2, max_length=2)
    density: list[float] = Field(default=_WHOLE, min_length=2, max_length=2)
    fixed: dict[str, float] = Field(default={})

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_row(kind, SPACES, "space")

    @field_validator("weight", "density")
    @classmethod
    def _is_range(cls, ends: list[float], info: ValidationInfo) -> list[float]:
        if not ends[0] < ends[1]:
            raise PydanticCustomError("range", "should be [low, high] with low below high; {ends}", {"ends": str(ends)})
        if info.field_name == "density" and not (ends[0] >= 0 and ends[1] <= 1):
            raise PydanticCustomError("range", "should stay in [0, 1], as it is the share of entries kept")
        return ends


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


class EvolveConfig(Section):
    """A whole search."""

    format: Literal[1]
    kind: Literal["evolve"]
    seed: int = 0
    merge: MergeDocument
    space: SpaceSection = SpaceSection()
    optimizer: OptimizerSection = OptimizerSection()
    budget: BudgetSection
    tasks: list[TaskSection] = Field(min_length=1)
    report: list[ReportSection] = Field(default=[])
    winner: Literal["best", "mean"] = "best"
    device: str = "auto"

    @field_validator("merge")
    @classmethod
    def _suits_the_method(cls, merge: MergeDocument) -> MergeDocument:
        # The host alone may be unknown until the models are looked into; a stand-in suffices for the method.
        stand_in = merge.model_copy(update={"host": merge.host or "host"})
        try:
            get_method(stand_in.template(relative_to=None))
        except ConfigError as error:
            raise PydanticCustomError("merge", "{reason}", {"reason": str(error)}) from error
        return merge

    @field_validator("space")
    @classmethod
    def _varies_what_there_is(cls, space: SpaceSection, info: ValidationInfo) -> SpaceSection:
        merge: MergeDocument | None = info.data.get("merge")
        if merge is None:
            return space
        searched = METHODS[merge.method].parameters
        if "density" not in searched and space.density != _WHOLE:
            raise PydanticCustomError("space", "density: {method} has none; leave it out", {"method": merge.method})
        known = [*searched, *(f"{source}.{parameter}" for source in merge.sources for parameter in searched)]
        for name, value in space.fixed.items():
            if name not in known:
                hint = did_you_mean(name, known)
                raise PydanticCustomError(
                    "space", "fixed: '{name}' names no parameter{hint}", {"name": name, "hint": hint}
                )
            if name.endswith("density") and not 0 <= value <= 1:
                raise PydanticCustomError("space", "fixed: {name} should be in [0, 1]", {"name": name})
        if all(parameter in space.fixed for parameter in searched):
            raise PydanticCustomError("space", "every parameter is fixed, so that nothing is left to search")
        return space

    @field_validator("tasks", "report")
    @classmethod
    def _tasks_differ(cls, sections: list[ReportSection], info: ValidationInfo) -> list[ReportSection]:
        # A task of one's own is known in results by the name that its file gives it.
        known = [(task_of(section.name, info), section.name) for section in sections]
        names = [written if task is None else task.name for task, written in known]
        if len(set(names)) < len(names):
            raise PydanticCustomError("tasks", "a task is named twice; give it one entry")
        return sections

    def resolved(self, *, relative_to: Path | None) -> "EvolveConfig":
        """Return the same search with its host named and every path absolute, so that it holds from any folder.

        Relative paths start at `relative_to` (None: the current folder). Raises ConfigError when the host is unclear.
        """
        template = self.template(relative_to=relative_to)
        models = {
            "base": template.base.identity if template.base else None,
            "host": template.host.identity,
            "sources": {name: ref.identity for name, ref in template.sources.items()},
        }
        folder = relative_to or Path()
        sections = {
            "tasks": [task.resolved(folder) for task in self.tasks],
            "report": [task.resolved(folder) for task in self.report],
        }
        return self.model_copy(update={"merge": self.merge.model_copy(update=models), **sections})

    def template(self, *, relative_to: Path | None) -> MergeTemplate:
        """Return what the search keeps fixed of every recipe."""
        return self.merge.template(relative_to=relative_to)

    def search_space(self, *, n_blocks: int) -> SearchSpace:
        """Return the space over the method's parameters for models of `n_blocks` blocks."""
        return SPACES[self.space.kind](
            tuple(sorted(self.merge.sources)),
            n_blocks,
            parameters=METHODS[self.merge.method].parameters,
            weight_range=(self.space.weight[0], self.space.weight[1]),
            density_range=(self.space.density[0], self.space.density[1]),
            fixed=dict(self.space.fixed),
        )

    def search_space_of(self, genome: Genome) -> SearchSpace:
        """Return the space that a recorded genome is a point of; the number of blocks follows from its length."""
        without = self.search_space(n_blocks=0)
        per_block = self.search_space(n_blocks=1).dim - without.dim
        return self.search_space(n_blocks=(len(genome) - without.dim) // per_block if per_block else 0)

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


def load_config(path: Path) -> EvolveConfig:
    """Return the config in the YAML file `path`. Raises ConfigError with all problems of the file.

    A model must be an existing folder, an embedded model, or what may be a hub id; a task's data must exist.
    """
    try:
        config = EvolveConfig.model_validate(read_yaml(path), context={"methods": METHODS, "folder": path.parent})
    except ValidationError as error:
        raise report_problems(path, error, model=EvolveConfig) from error
    try:
        config.template(relative_to=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: merge.{error}") from error
    try:
        # The models may have more blocks than one, and a generation then more candidates: that is looked at again.
        config.population(dim=config.search_space(n_blocks=1).dim)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def config_from_mapping(mapping: Mapping[str, object]) -> EvolveConfig:
    """Return the config that plain values make, as `as_mapping` gives them."""
    return EvolveConfig.model_validate(dict(mapping), context={"methods": METHODS})
