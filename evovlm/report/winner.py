"""A search's winner as a figure shows it: numbers by unit, beside those of the equal-weights merge, or its path."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.merging.methods import METHODS
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge, SourceParameters, parts_of, value_at
from evovlm.recipes.unit_ties import unit_name
from evovlm.report.content import Numbers
from evovlm.runs.journal import Entry, Journal
from evovlm.runs.search_config import SearchConfig
from evovlm.runs.summary import winner_entry

ALL_UNITS = ""
"""The one unit of a recipe whose numbers hold for the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Winner:
    """The entry that won, so far or for good, and its recipe."""

    entry: Entry
    recipe: Recipe


def winner_of(journal: Journal, config: SearchConfig) -> Winner | None:
    """Return the winner that the config asks for, or what comes closest so far; None when all candidates failed."""
    entry = winner_entry(config, journal)
    if entry is None:
        return None
    template = config.template(relative_to=None)
    searched = config.searched(template=template, blocks=journal.blocks)
    return Winner(entry=entry, recipe=searched.recipe(entry.genome))


def numbers_of(recipe: Recipe) -> tuple[Numbers, ...]:
    """Return the numbers of a merge of parameters; none of a path, whose first stage has its own figures."""
    if not isinstance(recipe, ParameterMerge):
        return ()
    n_units = max(recipe.unit_lengths(), default=1)
    units = tuple(unit_name(unit, n_blocks=n_units - 2) for unit in range(n_units)) if n_units > 1 else (ALL_UNITS,)
    equal = equal_weights(recipe.template).parameters
    return tuple(
        Numbers(
            parameter=parameter,
            units=units,
            by_source={name: _values(recipe.parameters[name], parameter, n_units) for name in recipe.sources},
            equal=_values(next(iter(equal.values())), parameter, 1)[0],
        )
        for parameter in METHODS[recipe.method].parameters
    )


def path_of(recipe: Recipe) -> LayerPath | None:
    """Return the path of a recipe that has one."""
    return None if isinstance(recipe, ParameterMerge) else recipe.path


def equal_weights(template: MergeTemplate) -> ParameterMerge:
    """Return the merge that nobody optimised: every model has the same part, and nothing is dropped.

    Of a method that blends the base in as one more model (slerp), the base has its part too.
    """
    takes_base = METHODS[template.method].base == "first"
    share = 1.0 / (len(template.sources) + takes_base)
    return template.recipe({name: SourceParameters(weight=share, density=1.0) for name in template.sources})


def _values(parameters: SourceParameters, parameter: str, n_units: int) -> tuple[float, ...]:
    values = getattr(parameters, parameter)
    return tuple(
        sum(value_at(part, unit) for part in parts_of(values)) / len(parts_of(values)) for unit in range(n_units)
    )


def sources_of(recipe: Recipe) -> Mapping[str, str]:
    """Return what each source is called in the recipe, and the model's text."""
    if isinstance(recipe, ParameterMerge):
        return {name: ref.text for name, ref in recipe.sources.items()}
    return {name: ref.text for name, ref in recipe.sources.items() if name in recipe.path.sources}
