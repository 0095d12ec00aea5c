"""A search space whose points are recipes: the numbers of a template, and the method and settings that are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.choices import HOST
from evovlm.recipes.kinds import Recipe, parameter_merge_only
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.recipes.search_space import SearchSpace
from evovlm.recipes.source_values import SOURCE_PARAMETERS, Component, Values, value_at
from evovlm.recipes.space import Description, Gap, Gene, Space, UnitNumbers
from evovlm.recipes.unit_ties import unit_name, units_of

METHOD = "method"
CONFIG_FROM = "config_from"
SETTINGS = tuple(each.name.rstrip("_") for each in fields(MergeSettings))
CHOOSABLE = (METHOD, CONFIG_FROM, *SETTINGS)
"""What can be chosen in a recipe: its method, whose rope it takes, and every setting."""

ALL_UNITS = "all units"
"""The only unit of a space in which units share their numbers."""


class MethodUse(Protocol):
    """What in a recipe makes a difference to a method."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of a source that it uses."""
        ...

    @property
    def settings(self) -> frozenset[str]:
        """The fields of `MergeSettings` that it uses."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpace(Space):
    """Genes of numbers, then genes of choices; everything else is as in the template.

    `uses` has a row for each method that a recipe may have. What makes no difference to a recipe's method has its
    default, so that one merge has one recipe. `start` is the point that a search starts from (None: the middle
    of everything). Raises ConfigError for a space without a gene.
    """

    template: MergeTemplate
    numbers: SearchSpace
    choices: tuple[Gene, ...]
    uses: Mapping[str, MethodUse]
    start: Genome | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.dim:
            raise ConfigError(
                "space: has nothing to search: every number is fixed or not used by the method, and no choice is given."
            )

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The genes of numbers, then the genes of choices."""
        return (*self.numbers.genes, *self.choices)

    @property
    def initial(self) -> Genome:
        """The point that a search starts from."""
        if self.start is not None:
            return self.start
        return np.concatenate([self.numbers.initial, np.full(len(self.choices), 0.5)])

    @property
    def largest(self) -> ParameterMerge:
        """Any recipe of the space: all of them are as large as the host."""
        return self.template.first_recipe()

    def decode(self, genome: Genome) -> ParameterMerge:
        """Return the recipe that `genome` (shape (dim,), in the unit cube) decodes to.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        self.check(genome)
        parameters = self.numbers.decode(genome[: self.numbers.dim])
        chosen = {
            choice.name: choice.value(x)
            for choice, x in zip(self.choices, genome[self.numbers.dim :].tolist(), strict=True)
        }
        method = chosen.pop(METHOD, self.template.method)
        config_from = chosen.pop(CONFIG_FROM, self.template.config_from)
        unused = self._unused(method)
        plain = {name: SOURCE_PARAMETERS[name].default for name in unused}
        return replace(
            self.template, method=method, config_from=config_from, settings=self._settings(method, chosen)
        ).recipe({name: replace(numbers, **plain) if plain else numbers for name, numbers in parameters.items()})

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome that decodes to `recipe`; see `SearchSpace.encode`.

        Raises ConfigError for a recipe of another template, or whose numbers are not in this space.
        """
        merge = self._checked(recipe)
        numbers = self.numbers.encode(merge.parameters, but=self._unused(merge.method))
        return np.concatenate([numbers, self._chosen(merge)])

    def nearest(self, recipe: Recipe) -> tuple[Genome, Gap]:
        """Return the genome of the recipe nearest to `recipe`, and where their numbers differ most.

        See `SearchSpace.nearest`; the choices are always those of `recipe`. Raises ConfigError for a recipe of another
        template.
        """
        merge = self._checked(recipe)
        but = self._unused(merge.method)
        numbers = self.numbers.nearest(merge.parameters, but=but)
        gap = self.numbers.gap(merge.parameters, self.numbers.decode(numbers), but=but)
        return np.concatenate([numbers, self._chosen(merge)]), gap

    def starting_at(self, recipe: Recipe) -> "RecipeSpace":
        """Return the same space, in which a search starts at the point nearest to `recipe`.

        Raises ConfigError for a recipe of another template.
        """
        return replace(self, start=self.nearest(recipe)[0])

    def equal_weights(self, weight: float) -> ParameterMerge:
        """Return the recipe in which every source has the same weight, and all other searched numbers their defaults.

        Fixed numbers keep their values.
        """
        middle = self.numbers.decode(self.numbers.initial)
        plain = {name: row.default for name, row in SOURCE_PARAMETERS.items()} | {"weight": weight}
        searched = {
            source: {name: plain[name] for own, name in self.numbers.searched if own == source}
            for source in self.template.sources
        }
        return self.template.recipe({name: replace(middle[name], **given) for name, given in searched.items()})

    def describe(self, genome: Genome) -> Description:
        """Return the numbers of a genome, one for each unit that has tensors, and its choices."""
        recipe = self.decode(genome)
        n_blocks, by_unit = self.numbers.n_blocks, self.numbers.differs_by_unit
        units = range(n_blocks + 2) if by_unit else range(1)
        knots = self.numbers.knots(genome[: self.numbers.dim])

        def number(values: Values, component: Component | None, unit: int) -> float | None:
            if component is None:
                return value_at(values, unit)
            there = not by_unit or unit in units_of(component, n_blocks=n_blocks)
            return value_at(values, unit, component) if there else None

        numbers = tuple(
            UnitNumbers(
                source=source,
                parameter=parameter,
                component=component,
                values=tuple(number(getattr(recipe.parameters[source], parameter), component, unit) for unit in units),
                knots=knots.get((source, parameter, component), ()),
            )
            for source in sorted(recipe.parameters)
            for parameter in self.uses[recipe.method].parameters
            for component in (part.component for part in self.numbers.parts)
        )
        names = tuple(unit_name(unit, n_blocks=n_blocks) for unit in units) if by_unit else (ALL_UNITS,)
        return Description(units=names, numbers=numbers, ranges=self.numbers.ranges, chosen=self.chosen(recipe))

    def _checked(self, recipe: Recipe) -> ParameterMerge:
        """Return the recipe. Raises ConfigError, naming all that differs, when its numbers are for another merge.

        Host, seed and vocabulary may differ: the numbers do not depend on them.
        """
        recipe = parameter_merge_only(recipe)
        chosen = {choice.name for choice in self.choices}
        differs = [
            f"{name} is {was}, and here it is {now}"
            for name, was, now in _differences(recipe, self.template)
            if name not in chosen
            and not (name in SETTINGS and setting_field(name) not in self.uses[recipe.method].settings)
        ]
        if differs:
            raise ConfigError(f"the recipe is of another merge: {'; '.join(differs)}.")
        return recipe

    def chosen(self, recipe: ParameterMerge) -> Mapping[str, object]:
        """Return the options that a recipe of this space has chosen, by name."""
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
        # A recipe does not hold what makes no difference to its method.
        return np.array(
            [choice.coordinate(found[choice.name]) if choice.name in found else 0.5 for choice in self.choices],
            dtype=np.float64,
        )

    def _unused(self, method: str) -> tuple[str, ...]:
        return tuple(name for name in SOURCE_PARAMETERS if name not in self.uses[method].parameters)


def setting_field(name: str) -> str:
    """Return a setting's name in `MergeSettings`: the name in a file, except for lambda."""
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
