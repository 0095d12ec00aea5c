"""The config of a search through the layers of several models (data-flow space).

Its defaults are the paper's, but for the optimizer:

format: 1
kind: evolve
merge: {kind: layer_path, host: zoo:math-a, sources: {math: zoo:math-a, ja: zoo:ja}, scale_target: pending}
space: {kind: path, repetitions: 3, scales: per_position, scale: [0.5, 1.5]}
optimizer: {kind: catcma, sigma: 0.1, population: 128}
budget: {candidates: 12800}
tasks: [{name: word_problems_ja}]
batch: 200
validation: 200
winner: snapshot
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.recipes.documents import Document, ModelText, SourceName, StageDocument, without_ps
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.kinds import PS, PathTemplate
from evovlm.recipes.layer_path import PATH_CHOICES, ScaleTarget
from evovlm.recipes.model_ref import ModelRef, count_blocks, parse_model_ref, read_config
from evovlm.recipes.path_space import PATH_SIGMA, SCALES, PathSpace
from evovlm.recipes.recipe import Dtype, ParameterMerge
from evovlm.runs.config.search import LARGEST_POPULATION, OptimizerSection, SearchConfig, SearchedSection, Winner
from evovlm.runs.config.sections import MOST, BudgetSection, known_row

UNKNOWN_HOST = "unknown_host"
"""The validation context's key for a first stage with problems, so that a missing host is not one more problem."""

_SAMPLES = 200
_GENERATIONS = 100
_POPULATION = 128
_MOST_REPETITIONS = 100
"""The paper has 3; each adds two genes for every block of every source."""


class PathMergeDocument(Document):
    """`merge:` of such a search; the order of the sources is that in which their blocks are laid out.

    `ps` is a whole merge in parameter space, whose result is a source of that name, laid out first, and the host if
    none is named. `dtype`, `chat_template`, `generation` and `backbone` are those of a recipe.
    """

    kind: Literal["layer_path"]
    ps: StageDocument | None = None
    host: ModelText | None = None
    sources: Annotated[dict[SourceName, ModelText], AfterValidator(without_ps)] = Field(min_length=1)
    scale_target: ScaleTarget
    dtype: Dtype | None = None
    chat_template: str | None = None
    generation: str | None = None
    backbone: BackbonePrefixes | None = None

    later: ClassVar[frozenset[str]] = frozenset(PATH_CHOICES)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of the sources, that of a first stage's result first."""
        return (*([PS] if self.ps is not None else []), *self.sources)

    def template(self, *, relative_to: Path | None) -> PathTemplate:
        """Return the template that this text means. Raises ConfigError when the host is missing or not a source."""
        return PathTemplate(
            ps=self.ps.recipe(relative_to=relative_to) if self.ps else None,
            host=parse_model_ref(self.host, relative_to=relative_to) if self.host else None,
            sources={name: parse_model_ref(text, relative_to=relative_to) for name, text in self.sources.items()},
            scale_target=self.scale_target,
            dtype=self.dtype,
            chat_template=self.chat_template,
            generation=self.generation,
            backbone=self.backbone,
        )


class PathSpaceSection(SearchedSection):
    """`space:` which paths there are; see `PathSpace`. `scale` is the range of a scale."""

    kind: Literal["path"] = "path"
    repetitions: int = Field(default=3, ge=1, le=_MOST_REPETITIONS)
    scales: str = "per_position"
    scale: list[float] = Field(default=[0.5, 1.5], min_length=2, max_length=2)
    host_start: float = 2.0
    rest_start: float = -2.0

    @field_validator("scales")
    @classmethod
    def _known(cls, scales: str) -> str:
        return known_row(scales, SCALES, "scales")

    @field_validator("scale")
    @classmethod
    def _is_around_1(cls, ends: list[float]) -> list[float]:
        if not (ends[0] <= 1.0 <= ends[1] and ends[0] < ends[1]):
            raise PydanticCustomError(
                "range",
                "should be [low, high] with 1 between them, where every scale begins; {ends}",
                {"ends": str(ends)},
            )
        return ends


class PathOptimizerSection(OptimizerSection):
    """`optimizer:` with the paper's step size and population; CatCMA has found better paths (benchmarks/LOG.md)."""

    kind: str = "catcma"
    sigma: float = Field(default=PATH_SIGMA, gt=0, le=1)
    population: int | None = Field(default=_POPULATION, le=LARGEST_POPULATION)


class PathConfig(SearchConfig):
    """A whole search in data-flow space."""

    merge: PathMergeDocument
    space: PathSpaceSection = PathSpaceSection()
    optimizer: PathOptimizerSection = PathOptimizerSection()
    budget: BudgetSection = BudgetSection(candidates=_GENERATIONS * _POPULATION)
    batch: int | None = Field(default=_SAMPLES, ge=1, le=MOST)
    validation: int | None = Field(default=_SAMPLES, ge=1, le=MOST)
    winner: Winner = Field(default="snapshot", validate_default=True)

    @field_validator("merge")
    @classmethod
    def _has_a_host(cls, merge: PathMergeDocument, info: ValidationInfo) -> PathMergeDocument:
        context = info.context or {}
        if context.get(UNKNOWN_HOST):
            return merge
        try:
            merge.template(relative_to=context.get("folder"))
        except ConfigError as error:
            raise PydanticCustomError("merge", "{reason}", {"reason": str(error)}) from error
        return merge

    def template(self, *, relative_to: Path | None) -> PathTemplate:
        """Return what the search keeps fixed of every recipe."""
        return self.merge.template(relative_to=relative_to)

    def resolved_merge(self, *, relative_to: Path | None) -> PathMergeDocument:
        """Return `merge` with every path absolute."""
        template = self.template(relative_to=relative_to)
        ps = self.merge.ps
        if ps is not None and template.ps is not None:
            models = {
                "base": template.ps.base.identity if template.ps.base else None,
                "host": template.ps.host.identity,
                "sources": {name: ref.identity for name, ref in template.ps.sources.items()},
            }
            ps = ps.model_copy(update=models)
        changes = {
            "ps": ps,
            "host": template.host.identity if template.host else None,
            "sources": {name: ref.identity for name, ref in template.sources.items()},
        }
        return self.merge.model_copy(update=changes)

    def whole_space(self, blocks: Mapping[str, int]) -> PathSpace:
        """Return the space of a resolved search; `blocks` has each source's number of blocks, in layout order."""
        return PathSpace(
            template=self.template(relative_to=None),
            blocks=blocks,
            repetitions=self.space.repetitions,
            scales=self.space.scales,
            scale_range=(self.space.scale[0], self.space.scale[1]),
            host_start=self.space.host_start,
            rest_start=self.space.rest_start,
            sigma=self.optimizer.sigma,
        )

    @property
    def method(self) -> str:
        """How candidates are merged, in a few words."""
        return self.merge.kind

    def least_blocks(self, *, relative_to: Path | None) -> Mapping[str, int]:
        """Return by source the number of its blocks; 2 for all where a config.json is not on this machine."""
        template = self.template(relative_to=relative_to)
        found: dict[str, int] = {}
        for name, ref in template.source_models().items():
            config = read_config(ref)
            count = count_blocks(config) if config is not None else None
            if count is None:
                return dict.fromkeys(template.source_names, 2)
            found[name] = count
        return found

    def baseline(self) -> None:
        """Return None: the sources of a path do not have weights that could be equal."""
        return

    def source_alone(self, source: str) -> ModelRef | ParameterMerge:
        """Return the model of a source, or the merge of the first stage."""
        template = self.template(relative_to=None)
        return template.ps if source == PS and template.ps is not None else template.sources[source]
