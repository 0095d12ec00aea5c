"""A search space whose points are recipes: the numbers of a template, and what is chosen of its method and settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.recipe import SOURCE_PARAMETERS, MergeSettings, MergeTemplate, ParameterMerge, SourceParameters
from evovlm.recipes.search_space import Gap, SearchSpace

METHOD = "method"
CONFIG_FROM = "config_from"
HOST = "host"
SETTINGS = tuple(each.name.rstrip("_") for each in fields(MergeSettings))
CHOOSABLE = (METHOD, CONFIG_FROM, *SETTINGS)
"""What of a recipe may be chosen: its method, whose rope it takes, and every setting."""


class MethodUse(Protocol):
    """What of a recipe makes a difference to a method."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Which parameters of a source."""
        ...

    @property
    def settings(self) -> frozenset[str]:
        """Which fields of `MergeSettings`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A gene that picks one of `options`: the part of [0, 1] that it lies in, of as many equal parts.

    A boundary belongs to the lower part.
    """

    name: str
    options: tuple[Any, ...]

    def option(self, coordinate: float) -> Any:
        """Return the option that a coordinate stands for."""
        return self.options[max(math.ceil(coordinate * len(self.options)) - 1, 0)]

    def coordinate(self, option: object) -> float:
        """Return the middle of an option's part. Raises ConfigError for what is none of the options."""
        if option not in self.options:
            raise ConfigError(
                f"{self.name} is {option}, but the space chooses among {', '.join(map(str, self.options))}."
            )
        return (self.options.index(option) + 0.5) / len(self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpace:
    """Genes of numbers, then those of choices; what they do not say is the template's.

    `uses` has a row for each method that a recipe may have. What makes no difference to a recipe's method is at its
    default there, so that one merge has one recipe. Raises ConfigError when there is no gene.
    """

    template: MergeTemplate
    numbers: SearchSpace
    choices: tuple[Choice, ...]
    uses: Mapping[str, MethodUse]

    def __post_init__(self) -> None:
        if not self.dim:
            raise ConfigError(
                "space: has nothing to search: every number is fixed, or the method has none, and there are no choices."
            )

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return self.numbers.dim + len(self.choices)

    @property
    def initial(self) -> Genome:
        """The point a search starts from, the middle of everything."""
        return np.concatenate([self.numbers.initial, np.full(len(self.choices), 0.5)])

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """How many values each gene takes; 0 for a number."""
        counts = [0] * self.numbers.dim + [len(choice.options) for choice in self.choices]
        return np.array(counts, dtype=np.int64)

    def decode(self, genome: Genome) -> ParameterMerge:
        """Return the recipe that `genome` (shape (dim,), in the unit cube) stands for.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        parameters = self.numbers.decode(genome[: self.numbers.dim])
        chosen = {
            choice.name: choice.option(x)
            for choice, x in zip(self.choices, genome[self.numbers.dim :].tolist(), strict=True)
        }
        method = chosen.pop(METHOD, self.template.method)
        config_from = chosen.pop(CONFIG_FROM, self.template.config_from)
        unused = self._unused(method)
        plain = {name: SOURCE_PARAMETERS[name].default for name in unused}
        return replace(
            self.template, method=method, config_from=config_from, settings=self._settings(method, chosen)
        ).recipe({name: replace(numbers, **plain) if plain else numbers for name, numbers in parameters.items()})

    def encode(self, recipe: ParameterMerge) -> Genome:
        """Return a genome that decodes to `recipe`; see `SearchSpace.encode`.

        Raises ConfigError for a recipe of another template, or whose numbers are not of this space.
        """
        self.check(recipe)
        numbers = self.numbers.encode(recipe.parameters, but=self._unused(recipe.method))
        return np.concatenate([numbers, self._chosen(recipe)])

    def nearest(self, recipe: ParameterMerge) -> tuple[Genome, Gap]:
        """Return the genome of what is nearest to `recipe`, and where its numbers are furthest from the recipe's.

        See `SearchSpace.nearest`; what is chosen is never another than the recipe's. Raises ConfigError for a recipe
        of another template.
        """
        self.check(recipe)
        but = self._unused(recipe.method)
        numbers = self.numbers.nearest(recipe.parameters, but=but)
        gap = self.numbers.gap(recipe.parameters, self.numbers.decode(numbers), but=but)
        return np.concatenate([numbers, self._chosen(recipe)]), gap

    def check(self, recipe: ParameterMerge) -> None:
        """Raise ConfigError, naming all that differs, when a recipe's numbers are for another merge than this space's.

        Host, seed and vocabulary may be others: they are no matter of the numbers.
        """
        chosen = {choice.name for choice in self.choices}
        differs = [
            f"{name} is {was}, and here it is {now}"
            for name, was, now in _differences(recipe, self.template)
            if name not in chosen
            and not (name in SETTINGS and setting_field(name) not in self.uses[recipe.method].settings)
        ]
        if differs:
            raise ConfigError(f"the recipe is of another merge: {'; '.join(differs)}.")

    def chosen(self, recipe: ParameterMerge) -> Mapping[str, object]:
        """Return what a recipe of this space has of its choices, by name."""
        found = {METHOD: recipe.method, CONFIG_FROM: recipe.config_from or HOST}
        for name in SETTINGS:
            if setting_field(name) in self.uses[recipe.method].settings:
                found[name] = getattr(recipe.settings, setting_field(name))
        return {choice.name: found[choice.name] for choice in self.choices if choice.name in found}

    def _settings(self, method: str, chosen: Mapping[str, Any]) -> MergeSettings:
        asked = {name: getattr(self.template.settings, name) for name in self.uses[method].settings}
        asked |= {key: value for name, value in chosen.items() if (key := setting_field(name)) in asked}
        return MergeSettings(**asked)

    def _chosen(self, recipe: ParameterMerge) -> Genome:
        found = self.chosen(recipe)
        # What makes no difference to a method is not told by a recipe.
        return np.array(
            [choice.coordinate(found[choice.name]) if choice.name in found else 0.5 for choice in self.choices],
            dtype=np.float64,
        )

    def _unused(self, method: str) -> tuple[str, ...]:
        return tuple(name for name in SOURCE_PARAMETERS if name not in self.uses[method].parameters)


def setting_field(name: str) -> str:
    """Return what a setting is called in `MergeSettings`: as in a file, but for lambda."""
    return "lambda_" if name == "lambda" else name


def _differences(recipe: ParameterMerge, template: MergeTemplate) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    ours, theirs = template.sources, recipe.sources
    for name in sorted({*ours, *theirs}):
        was, now = theirs.get(name), ours.get(name)
        if was is None or now is None or was.identity != now.identity:
            found.append((f"sources.{name}", was.text if was else "absent", now.text if now else "absent"))
    if (recipe.base and recipe.base.identity) != (template.base and template.base.identity):
        found.append(
            ("base", recipe.base.text if recipe.base else "absent", template.base.text if template.base else "absent")
        )
    for name in (METHOD, CONFIG_FROM):
        if getattr(recipe, name) != getattr(template, name):
            found.append((name, getattr(recipe, name) or HOST, getattr(template, name) or HOST))
    for each in SETTINGS:
        was_set, now_set = (
            getattr(recipe.settings, setting_field(each)),
            getattr(template.settings, setting_field(each)),
        )
        if was_set != now_set:
            found.append((each, was_set, now_set))
    return found


def equal_weights(template: MergeTemplate, weight: float, *, space: SearchSpace) -> ParameterMerge:
    """Return the merge in which every source has the same weight, and all else is as if no one had asked for it.

    What the space keeps fixed is what it is there.
    """
    middle = space.decode(space.initial)
    searched = {source: {name for own, name in space.searched if own == source} for source in template.sources}
    return template.recipe(
        {
            source: SourceParameters(
                **{
                    name: (weight if name == "weight" else row.default)
                    if name in searched[source]
                    else getattr(middle[source], name)
                    for name, row in SOURCE_PARAMETERS.items()
                }
            )
            for source in template.sources
        }
    )
