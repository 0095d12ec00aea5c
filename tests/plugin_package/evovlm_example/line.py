"""A kind of search that evovlm does not have, in one file: the recipes on the line from one model to another.

merge: {kind: line, base: zoo:base, ends: [zoo:math-a, zoo:ja]}
space: {kind: line}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from evovlm.recipes.candidate import Genome
from evovlm.recipes.documents import Document, ModelText
from evovlm.recipes.kinds import Recipe, parameter_merge_only
from evovlm.recipes.model_ref import ModelRef, parse_model_ref
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters, numbers_of
from evovlm.recipes.space import Description, Gap, Gene, Space, UnitNumbers
from evovlm.runs.config.search import SearchConfig, SearchedSection


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSpace(Space):
    """One gene: how far the recipe is from the source `start` (0) to the source `end` (1)."""

    template: MergeTemplate
    begin: Genome = field(default_factory=lambda: np.array([0.5]), compare=False)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The only one."""
        return (Gene(name="end"),)

    @property
    def initial(self) -> Genome:
        """The middle of the line, or the recipe asked for."""
        return self.begin

    def decode(self, genome: Genome) -> ParameterMerge:
        """Return the recipe at a point of the line."""
        self.check(genome)
        end = float(genome[0])
        return self.template.recipe({"start": SourceParameters(weight=1 - end), "end": SourceParameters(weight=end)})

    def encode(self, recipe: Recipe) -> Genome:
        """Return the weight of the line's end."""
        return np.array(numbers_of(parameter_merge_only(recipe).parameters["end"].weight)[:1])

    def nearest(self, recipe: Recipe) -> tuple[Genome, Gap]:
        """Return the weight of the line's end."""
        return self.encode(recipe), Gap()

    def starting_at(self, recipe: Recipe) -> "LineSpace":
        """Return the same line with another point to start from."""
        return replace(self, begin=self.encode(recipe))

    def equal_weights(self, weight: float) -> ParameterMerge:
        """Return both sources with the same weight."""
        return self.template.equal_weights(weight)

    @property
    def largest(self) -> ParameterMerge:
        """Any recipe."""
        return self.template.first_recipe()

    def describe(self, genome: Genome) -> Description:
        """Return both weights."""
        numbers = tuple(
            UnitNumbers(source=name, parameter="weight", component=None, values=numbers_of(each.weight))
            for name, each in self.decode(genome).parameters.items()
        )
        return Description(units=("all units",), numbers=numbers, ranges={"weight": (0.0, 1.0)})


class LineMerge(Document):
    """`merge:` of such a search."""

    kind: Literal["line"]
    base: ModelText
    ends: list[ModelText] = Field(min_length=2, max_length=2)

    @property
    def source_names(self) -> tuple[str, ...]:
        """Both ends."""
        return ("start", "end")


class LineSection(SearchedSection):
    """`space:` of such a search."""

    kind: Literal["line"] = "line"


class LineConfig(SearchConfig):
    """A whole search along a line."""

    merge: LineMerge
    space: LineSection = LineSection()

    @property
    def method(self) -> str:
        """Linear."""
        return "linear"

    def template(self, *, relative_to: Path | None) -> MergeTemplate:
        """Return the merge of both ends."""
        base, start, end = (
            parse_model_ref(text, relative_to=relative_to) for text in (self.merge.base, *self.merge.ends)
        )
        return MergeTemplate(base=base, host=base, sources={"start": start, "end": end}, method="linear")

    def resolved_merge(self, *, relative_to: Path | None) -> LineMerge:
        """Return `merge` with every path absolute."""
        template = self.template(relative_to=relative_to)
        ends = [ref.identity for ref in template.sources.values()]
        return self.merge.model_copy(update={"base": template.host.identity, "ends": ends})

    def least_blocks(self, *, relative_to: Path | None) -> Mapping[str, int]:
        """Return one for each end."""
        return dict.fromkeys(self.template(relative_to=relative_to).sources, 1)

    def whole_space(self, blocks: Mapping[str, int]) -> LineSpace:
        """Return the line."""
        return LineSpace(template=self.template(relative_to=None))

    def baseline(self) -> ParameterMerge:
        """Return the middle of the line."""
        return self.template(relative_to=None).equal_weights(0.5)

    def source_alone(self, source: str) -> ModelRef:
        """Return an end."""
        return self.template(relative_to=None).sources[source]
