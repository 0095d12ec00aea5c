"""A search's winner as a figure shows it: numbers by unit, beside those of the equal-weights merge, or its path."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge, SourceParameters, value_at
from evovlm.report.content import Numbers
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.journal import Entry, Journal
from evovlm.runs.summary import winner_entry
from evovlm.runs.winner_numbers import numbers_of_entry


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
    searched = config.searched(journal.blocks)
    return Winner(entry=entry, recipe=searched.recipe(entry.genome))


def numbers_of(journal: Journal, config: SearchConfig, entry: Entry) -> tuple[Numbers, ...]:
    """Return the numbers of an entry, by parameter; none of a path, whose first stage has its own figures."""
    if not isinstance(config, EvolveConfig):
        return ()
    found = numbers_of_entry(config, journal, entry)
    equal = next(iter(equal_weights(config.template(relative_to=None)).parameters.values()))
    ranges = config.space.all_ranges
    return tuple(
        Numbers(
            parameter=parameter,
            units=found.units,
            lines=tuple(each for each in found.numbers if each.parameter == parameter),
            equal=value_at(getattr(equal, parameter), 0),
            low=ranges[parameter][0],
            high=ranges[parameter][1],
        )
        for parameter in dict.fromkeys(each.parameter for each in found.numbers)
    )


def chosen_of(journal: Journal, config: SearchConfig, entry: Entry) -> Mapping[str, str]:
    """Return what an entry has of its space's choices, by name."""
    if not isinstance(config, EvolveConfig):
        return {}
    found = numbers_of_entry(config, journal, entry).chosen
    return {name: "default" if option is None else str(option) for name, option in found.items()}


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
