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

import numpy as np
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.merging.methods import METHODS, get_method
from evovlm.recipes.candidate import Genome
from evovlm.recipes.documents import MergeDocument, read_yaml, report_problems
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.problems import did_you_mean, problems_in
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.search_space import SPACES, SearchSpace
from evovlm.runs.path_config import PathConfig, blocks_at_hand
from evovlm.runs.search_config import SearchConfig, Searched
from evovlm.runs.sections import Section, known_row

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


class EvolveConfig(SearchConfig):
    """A whole search in parameter space."""

    merge: MergeDocument
    space: SpaceSection = SpaceSection()

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

    def template(self, *, relative_to: Path | None) -> MergeTemplate:
        """Return what the search keeps fixed of every recipe."""
        return self.merge.template(relative_to=relative_to)

    def resolved_merge(self, *, relative_to: Path | None) -> MergeDocument:
        """Return `merge` with its host named and every path absolute."""
        template = self.template(relative_to=relative_to)
        models = {
            "base": template.base.identity if template.base else None,
            "host": template.host.identity,
            "sources": {name: ref.identity for name, ref in template.sources.items()},
        }
        return self.merge.model_copy(update=models)

    def searched(self, *, template: MergeTemplate | PathTemplate, blocks: Mapping[str, int]) -> Searched:
        """Return what is searched; all sources have the same number of blocks."""
        return _searched(self.search_space(n_blocks=next(iter(blocks.values()))), template)

    def searched_again(
        self,
        *,
        template: MergeTemplate | PathTemplate,
        blocks: Mapping[str, int],  # noqa: ARG002 - a genome's length tells them
        genome: Genome,
    ) -> Searched:
        """Return what a run searched, from what its journal holds."""
        return _searched(self.search_space_of(genome), template)

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


def _searched(space: SearchSpace, template: MergeTemplate | PathTemplate) -> Searched:
    if isinstance(template, PathTemplate):
        raise ConfigError("merge: parameters are searched, and a path has none.")
    return Searched(
        initial=space.initial,
        levels=np.zeros(space.dim, dtype=np.int64),
        recipe=lambda genome: template.recipe(space.decode(genome)),
    )


def load_config(path: Path) -> EvolveConfig | PathConfig:
    """Return the config in the YAML file `path`. Raises ConfigError with all problems of the file.

    A model must be an existing folder, an embedded model, or what may be a hub id; a task's data must exist.
    """
    document = read_yaml(path)
    model = _model_of(document)
    try:
        config = model.model_validate(document, context={"methods": METHODS, "folder": path.parent})
    except ValidationError as error:
        raise report_problems(path, error, model=model) from error
    check_budget(config, path=path)
    return config


def check_budget(config: EvolveConfig | PathConfig, *, path: Path) -> None:
    """Raise ConfigError, naming the file, when the host is unclear or the budget holds no whole generation."""
    try:
        template = config.template(relative_to=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: merge.{error}") from error
    # The models may have more blocks than one, and a generation then more candidates: that is looked at again.
    blocks: Mapping[str, int] = dict.fromkeys(template.sources, 1)
    if isinstance(template, PathTemplate):
        blocks = blocks_at_hand(template) or dict.fromkeys(template.source_names, 2)
    try:
        config.population(dim=config.searched(template=template, blocks=blocks).dim)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_mapping(mapping: Mapping[str, object]) -> EvolveConfig | PathConfig:
    """Return the config that plain values make, as `as_mapping` gives them.

    Raises ConfigError for what this version does not read.
    """
    try:
        return _model_of(mapping).model_validate(dict(mapping), context={"methods": METHODS})
    except ValidationError as error:
        problems = "; ".join(text for _, text in problems_in(error))
        raise ConfigError(
            f"the config that was recorded is none of this version's: {problems}.\n"
            "    Go on with the version that wrote it, or start a new run."
        ) from error


def _model_of(document: object) -> type[EvolveConfig] | type[PathConfig]:
    merge = document.get("merge") if isinstance(document, Mapping) else None
    kind = merge.get("kind") if isinstance(merge, Mapping) else None
    return PathConfig if kind == "layer_path" else EvolveConfig
