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

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS, get_method
from evovlm.recipes.candidate import Genome
from evovlm.recipes.documents import MergeDocument, read_yaml, report_problems
from evovlm.recipes.kinds import parameter_merge_only
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.problems import problems_in
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.recipe_space import RecipeSpace, equal_weights
from evovlm.recipes.search_space import SearchSpace
from evovlm.recipes.space_kinds import SPACES, search_space
from evovlm.runs.config.paths import PathConfig, blocks_at_hand
from evovlm.runs.config.search import SearchConfig, Searched
from evovlm.runs.config.space import SpaceSection, check_space

_AS_GOOD_AS_THERE = 1e-6


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
        if merge is not None:
            check_space(space, merge)
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

    def searched(self, blocks: Mapping[str, int]) -> Searched:
        """Return what a resolved config searches; all sources have the same number of blocks."""
        space = self.recipe_space(template=self.template(relative_to=None), n_blocks=next(iter(blocks.values())))
        initial, notes = self._start(space)
        return Searched(initial=initial, levels=space.levels, recipe=space.decode, notes=notes)

    def _start(self, space: RecipeSpace) -> tuple[Genome, tuple[str, ...]]:
        if self.start is None:
            return space.initial, ()
        recipe = self.start.found(Path())
        if recipe is None:
            recipe = equal_weights(space.template, self.start.equal or 0.0, space=space.numbers)
        try:
            genome, gap = space.nearest(parameter_merge_only(recipe))
        except ConfigError as error:
            raise ConfigError(f"start: {error}") from error
        if gap.size < _AS_GOOD_AS_THERE:
            return genome, ()
        return genome, (
            f"start: this space holds the recipe to within {gap.size:.3g}, and the search starts at the nearest; "
            f"furthest is {gap.place}: {gap.given:g} there, {gap.taken:g} here.",
        )

    def recipe_space(self, *, template: MergeTemplate, n_blocks: int) -> RecipeSpace:
        """Return the space over the recipes of the template, for models of `n_blocks` blocks."""
        return RecipeSpace(
            template=template,
            numbers=self.search_space(n_blocks=n_blocks),
            choices=self.space.all_choices,
            uses=METHODS,
        )

    def search_space(self, *, n_blocks: int) -> SearchSpace:
        """Return the space over the numbers alone."""
        parameters = self.space.parameters(self.merge)
        return search_space(
            self.space.kind,
            sorted(self.merge.sources),
            n_blocks,
            parameters=parameters,
            ranges=self.space.all_ranges,
            fixed=self.space.all_fixed(parameters),
            options=self.space.options,
        )

    @property
    def least_blocks(self) -> int:
        """The smallest number of blocks that a model of this search may have."""
        options = {**SPACES[self.space.kind].options, **self.space.options}
        return options.get("knots", 1)


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
    blocks: Mapping[str, int]
    if isinstance(template, PathTemplate):
        blocks = blocks_at_hand(template) or dict.fromkeys(template.source_names, 2)
    else:
        least = config.least_blocks if isinstance(config, EvolveConfig) else 1
        blocks = dict.fromkeys(template.sources, least)
    try:
        # Where the search starts makes no difference to the number of genes.
        merge = config.resolved_merge(relative_to=path.parent)
        dim = config.model_copy(update={"start": None, "merge": merge}).searched(blocks).dim
        config.population(dim=dim)
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
