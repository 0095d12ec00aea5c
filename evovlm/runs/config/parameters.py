"""The config of a search in parameter space, as people write it (YAML).

format: 1
kind: evolve
seed: 42
merge: {base: zoo:base, sources: {math: zoo:math-a, ja: zoo:ja}, method: dare_ties, seed: 42}
space:
  kind: component x interpolated
  knots: 5
  weight: [-0.5, 1.5]
  density: [0.1, 1]
  ranges: {ja.weight: [0, 1]}
  fixed: {ja.density: 1.0, math: {weight: 0.7}}
  choices: {method: [dare_ties, ties], rescale: [density, l1]}
optimizer: {kind: cma}
budget: {candidates: 100}
tasks: [{name: word_problems_ja, limit: 160}]
winner: best
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError, EvovlmError
from evovlm.merging.arithmetic.methods import METHODS, Method, get_method
from evovlm.recipes.choices import HOST
from evovlm.recipes.documents import MergeDocument
from evovlm.recipes.model_config import MOST_BLOCKS
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.recipes.recipe_space import CHOOSABLE, CONFIG_FROM, METHOD, SETTINGS, RecipeSpace, setting_field
from evovlm.recipes.source_values import SOURCE_PARAMETERS, FurtherComponent, SourceParameters
from evovlm.recipes.space import Gene, Range
from evovlm.recipes.space_kinds import RANGES, SPACES, range_problem, search_space
from evovlm.runs.config.search import SearchConfig, SearchedSection
from evovlm.runs.config.sections import known_row

_OPTIONS = ("knots", "group")
_SETTINGS = TypeAdapter(MergeSettings)


class SpaceSection(SearchedSection):
    """`space:`; `weight`, `density`, `gamma` and `epsilon` are ranges, `ranges` those of a source ("ja.weight").

    `fixed` holds numbers that are not searched: a parameter's, a source's parameter's, or under a source's name all
    numbers of the source, with defaults for those that are not given. `choices` has a list of options for each of
    method, config_from or settings. `knots` and `group` are for the kinds that have them. `components` are those with
    numbers of their own beside attention, MLP, norms and the rest; those that the models have if it is left out.
    """

    later: ClassVar[frozenset[str]] = frozenset({"components"})

    kind: str = "model"
    knots: int | None = Field(default=None, ge=2, le=MOST_BLOCKS)
    group: int | None = Field(default=None, ge=1, le=MOST_BLOCKS)
    weight: list[float] = Field(default=list(RANGES["weight"]), min_length=2, max_length=2)
    density: list[float] = Field(default=list(RANGES["density"]), min_length=2, max_length=2)
    gamma: list[float] = Field(default=list(RANGES["gamma"]), min_length=2, max_length=2)
    epsilon: list[float] = Field(default=list(RANGES["epsilon"]), min_length=2, max_length=2)
    ranges: dict[str, list[float]] = Field(default={})
    fixed: dict[str, float | dict[str, float]] = Field(default={})
    choices: dict[str, list[str | bool | int | float | None]] = Field(default={})
    components: list[FurtherComponent] | None = None

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_row(kind, SPACES, "space")

    @field_validator(*_OPTIONS)
    @classmethod
    def _is_an_option(cls, number: int | None, info: ValidationInfo) -> int | None:
        kind = info.data.get("kind")
        if number is not None and kind is not None and info.field_name not in SPACES[kind].options:
            raise PydanticCustomError(
                "option", "the space '{kind}' does not have this option; leave it out", {"kind": kind}
            )
        return number

    @field_validator(*RANGES)
    @classmethod
    def _is_range(cls, ends: list[float], info: ValidationInfo) -> list[float]:
        problem = range_problem(str(info.field_name), (ends[0], ends[1]))
        if problem is not None:
            raise _problem("{problem}", problem=problem)
        return ends

    @field_validator("choices")
    @classmethod
    def _can_be_chosen(cls, choices: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, options in choices.items():
            _check_choice(name, options)
        return choices

    @property
    def options(self) -> Mapping[str, int]:
        """The options of the kind that are given."""
        given = {name: getattr(self, name) for name in _OPTIONS}
        return {name: number for name, number in given.items() if number is not None}

    @property
    def all_ranges(self) -> Mapping[str, Range]:
        """Every range by "parameter" or "source.parameter"."""
        shared = {name: getattr(self, name) for name in RANGES}
        return {name: (ends[0], ends[1]) for name, ends in {**shared, **self.ranges}.items()}

    def all_fixed(self, parameters: Iterable[str]) -> Mapping[str, float]:
        """Return every fixed number by "parameter" or "source.parameter", for a search over `parameters`."""
        found: dict[str, float] = {}
        for name, value in self.fixed.items():
            if isinstance(value, dict):
                whole = {each: SOURCE_PARAMETERS[each].default for each in parameters} | value
                found |= {f"{name}.{each}": number for each, number in whole.items()}
            else:
                found[name] = value
        return found

    @property
    def all_choices(self) -> tuple[Gene, ...]:
        """The choices, by name, so that their order in the file says nothing."""
        return tuple(
            Gene(name=name, options=tuple(_plain(name, option) for option in self.choices[name]))
            for name in CHOOSABLE
            if name in self.choices
        )

    def methods(self, merge: MergeDocument) -> tuple[Method, ...]:
        """Return the methods that a candidate may have."""
        return tuple(METHODS[str(name)] for name in self.choices.get(METHOD, [merge.method]))

    def parameters(self, merge: MergeDocument) -> tuple[str, ...]:
        """Return the parameters that any of the methods takes."""
        taken = {name for method in self.methods(merge) for name in method.parameters}
        return tuple(name for name in SOURCE_PARAMETERS if name in taken)


class EvolveConfig(SearchConfig):
    """A whole search in parameter space."""

    merge: MergeDocument
    space: SpaceSection = SpaceSection()

    @field_validator("merge")
    @classmethod
    def _suits_the_method(cls, merge: MergeDocument) -> MergeDocument:
        # Only the host may be unknown until the models are read; a stand-in suffices for the method.
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
            further=self.space.components or (),
        )
        template = self.template(relative_to=None)
        return RecipeSpace(template=template, numbers=numbers, choices=self.space.all_choices, uses=METHODS)

    def resolved(self, *, relative_to: Path | None) -> Self:
        """See SearchConfig; in a space by component, the components of the models are named too."""
        found = super().resolved(relative_to=relative_to)
        if not SPACES[self.space.kind].by_component or self.space.components is not None:
            return found
        # Most commands only read the config.
        from evovlm.merging.checkpoint.sources import Checkpoint
        from evovlm.merging.models.tensor_names import further_components

        try:
            host = Checkpoint.open_headers(found.template(relative_to=None).host, declared=found.merge.backbone)
        except EvovlmError:
            # The check of the search says what is wrong with the host.
            return found
        components = list(further_components(host.backbone_names())) or None
        return found.model_copy(update={"space": found.space.model_copy(update={"components": components})})

    @property
    def method(self) -> str:
        """The methods that a candidate may have."""
        return " | ".join(each.name for each in self.space.methods(self.merge))

    def least_blocks(self, *, relative_to: Path | None) -> Mapping[str, int]:
        """Return by source the smallest number of blocks that it may have: one for each knot of a spline."""
        options = {**SPACES[self.space.kind].options, **self.space.options}
        return dict.fromkeys(self.template(relative_to=relative_to).sources, options.get("knots", 1))

    def baseline(self) -> ParameterMerge:
        """Return the merge in which every model has the same share, and nothing is dropped.

        In a method that takes the base as one more model (slerp), the base has its share too.
        """
        template = self.template(relative_to=None)
        takes_base = METHODS[template.method].base == "first"
        return template.equal_weights(1.0 / (len(template.sources) + takes_base))

    def source_alone(self, source: str) -> ParameterMerge:
        """Return the merge in which one source replaces the host's language model, for any method."""
        template = self.template(relative_to=None)
        one_hot = {name: SourceParameters(weight=float(name == source)) for name in template.sources}
        return replace(template, method="linear", settings=MergeSettings(), config_from=None).recipe(one_hot)

    def variants(self) -> Iterator[MergeTemplate]:
        """Yield the template with each of the models whose config a candidate may choose for its result."""
        for choice in self.space.all_choices:
            for donor in choice.options if choice.name == CONFIG_FROM else ():
                yield replace(self.template(relative_to=None), config_from=donor)


def check_space(space: SpaceSection, merge: MergeDocument) -> None:
    """Raise PydanticCustomError when the space asks for what the merge does not have, or leaves nothing to search."""
    _check_choices(space, merge)
    parameters = space.parameters(merge)
    method = " or ".join(row.name for row in space.methods(merge))
    for name in RANGES:
        if name not in parameters and tuple(getattr(space, name)) != RANGES[name]:
            raise _problem("{name}: {method} does not have it; leave it out", name=name, method=method)
    owned = [f"{source}.{parameter}" for source in merge.sources for parameter in parameters]
    for name, ends in space.ranges.items():
        if name not in owned:
            raise _problem(
                "ranges: '{name}' names no source's parameter{hint}", name=name, hint=did_you_mean(name, owned)
            )
        if len(ends) != 2:
            raise _problem("ranges: {name} should be [low, high]", name=name)
        problem = range_problem(name.rsplit(".", 1)[-1], (ends[0], ends[1]))
        if problem is not None:
            raise _problem("ranges: {name}: {problem}", name=name, problem=problem)
    for name, value in space.fixed.items():
        if isinstance(value, dict) and name not in merge.sources:
            raise _problem("fixed: '{name}' names no source{hint}", name=name, hint=did_you_mean(name, merge.sources))
    fixed, known = space.all_fixed(parameters), [*parameters, *owned]
    for name, number in fixed.items():
        if name not in known:
            raise _problem("fixed: '{name}' names no parameter{hint}", name=name, hint=did_you_mean(name, known))
        row = SOURCE_PARAMETERS[name.rsplit(".", 1)[-1]]
        if not row.low <= number <= row.high:
            raise _problem(
                "fixed: {name} should be in [{low}, {high}]", name=name, low=f"{row.low:g}", high=f"{row.high:g}"
            )
    if not space.choices and all(name in fixed or name.rsplit(".", 1)[-1] in fixed for name in owned):
        what = "every parameter is fixed" if parameters else f"{method} has no parameters"
        raise _problem("{what}, so that nothing is left to search", what=what)


def _check_choices(space: SpaceSection, merge: MergeDocument) -> None:
    for name in space.choices.get(METHOD, []):
        if name not in METHODS:
            raise _problem("choices.method: unknown method{hint}", hint=did_you_mean(str(name), METHODS))
    donors = [HOST, *(["base"] if merge.base else []), *merge.sources]
    for name in space.choices.get(CONFIG_FROM, []):
        if name not in donors:
            raise _problem(
                "choices.config_from: '{name}' is not one of {known}", name=str(name), known=", ".join(donors)
            )
    methods = space.methods(merge)
    for name in space.choices:
        if name in SETTINGS and not any(setting_field(name) in method.settings for method in methods):
            used = " or ".join(method.name for method in methods)
            raise _problem("choices.{name}: makes no difference to {used}", name=name, used=used)
    # Only the host may be unknown until the models are read; a stand-in suffices for the method.
    template = merge.model_copy(update={"host": merge.host or "host"}).template(relative_to=None)
    for method in methods:
        try:
            get_method(replace(template, method=method.name, settings=MergeSettings()))
        except ConfigError as error:
            raise _problem("choices.method: {method}: {reason}", method=method.name, reason=str(error)) from error


def _check_choice(name: str, options: list[Any]) -> None:
    if name not in CHOOSABLE:
        raise _problem("'{name}' cannot be chosen{hint}", name=name, hint=did_you_mean(name, CHOOSABLE))
    if len(options) < 2 or len({repr(option) for option in options}) < len(options):
        raise _problem("{name} needs two or more different options", name=name)
    for option in options:
        try:
            _plain(name, option)
        except ValidationError as error:
            raise _problem(
                "{name}: {option}: {reason}", name=name, option=str(option), reason=error.errors()[0]["msg"]
            ) from error


def _plain(name: str, option: Any) -> Any:
    """Return an option as a recipe has it."""
    if name not in SETTINGS:
        return str(option)
    return getattr(_SETTINGS.validate_python({name: option}), setting_field(name))


def _problem(text: str, **values: str) -> PydanticCustomError:
    return PydanticCustomError("space", text, values)
