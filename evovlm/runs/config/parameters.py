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

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS, get_method
from evovlm.recipes.documents import MergeDocument
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge, SourceParameters
from evovlm.recipes.recipe_space import CONFIG_FROM, RecipeSpace
from evovlm.recipes.space_kinds import SPACES, search_space
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.config.space import SpaceSection, check_space


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

    def whole_space(self, blocks: Mapping[str, int]) -> RecipeSpace:
        """Return the space of a resolved search; all sources have the same number of blocks."""
        parameters = self.space.parameters(self.merge)
        numbers = search_space(
            self.space.kind,
            sorted(self.merge.sources),
            next(iter(blocks.values())),
            parameters=parameters,
            ranges=self.space.all_ranges,
            fixed=self.space.all_fixed(parameters),
            options=self.space.options,
        )
        template = self.template(relative_to=None)
        return RecipeSpace(template=template, numbers=numbers, choices=self.space.all_choices, uses=METHODS)

    @property
    def method(self) -> str:
        """The methods that a candidate may have."""
        return " | ".join(each.name for each in self.space.methods(self.merge))

    def least_blocks(self, *, relative_to: Path | None) -> Mapping[str, int]:
        """Return by source the smallest number of blocks that it may have: one for each knot of a spline."""
        options = {**SPACES[self.space.kind].options, **self.space.options}
        return dict.fromkeys(self.template(relative_to=relative_to).sources, options.get("knots", 1))

    def baseline(self) -> ParameterMerge:
        """Return the merge in which every model has the same part, and nothing is dropped.

        Of a method that blends the base in as one more model (slerp), the base has its part too.
        """
        template = self.template(relative_to=None)
        takes_base = METHODS[template.method].base == "first"
        return template.equal_weights(1.0 / (len(template.sources) + takes_base))

    def source_alone(self, source: str) -> ParameterMerge:
        """Return the merge that puts one source whole in the place of the host's language model, for any method."""
        template = self.template(relative_to=None)
        one_hot = {name: SourceParameters(weight=float(name == source)) for name in template.sources}
        return replace(template, method="linear", settings=MergeSettings(), config_from=None).recipe(one_hot)

    def variants(self) -> Iterator[MergeTemplate]:
        """Yield the template with each of the models whose config a candidate may choose for its result."""
        for choice in self.space.all_choices:
            for donor in choice.options if choice.name == CONFIG_FROM else ():
                yield replace(self.template(relative_to=None), config_from=donor)
