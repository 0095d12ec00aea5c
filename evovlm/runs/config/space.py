"""`space:` of a search in parameter space: what is searched, where, and what stays as it is.

space:
  kind: component x interpolated
  knots: 5
  weight: [-0.5, 1.5]
  density: [0.1, 1]
  ranges: {ja.weight: [0, 1]}
  fixed: {ja.density: 1.0, math: {weight: 0.7}}
  choices: {method: [dare_ties, ties], rescale: [density, l1]}
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS, Method, get_method
from evovlm.recipes.documents import MergeDocument
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import SOURCE_PARAMETERS, MergeSettings
from evovlm.recipes.recipe_space import CHOOSABLE, CONFIG_FROM, HOST, METHOD, SETTINGS, setting_field
from evovlm.recipes.space import Gene, Range
from evovlm.recipes.space_kinds import RANGES, SPACES, range_problem
from evovlm.runs.config.search import SearchedSection
from evovlm.runs.config.sections import known_row

_OPTIONS = ("knots", "group")
_SETTINGS = TypeAdapter(MergeSettings)


class SpaceSection(SearchedSection):
    """`space:`; `weight`, `density`, `gamma` and `epsilon` are ranges, `ranges` those of a source ("ja.weight").

    `fixed` holds numbers that stay: a parameter's, a source's parameter's, or under a source's name all of its own,
    those not given at their defaults. `choices` has a list of options for each of method, config_from or settings.
    `knots` and `group` are for the kinds that have them.
    """

    kind: str = "model"
    knots: int | None = Field(default=None, ge=2)
    group: int | None = Field(default=None, ge=1)
    weight: list[float] = Field(default=list(RANGES["weight"]), min_length=2, max_length=2)
    density: list[float] = Field(default=list(RANGES["density"]), min_length=2, max_length=2)
    gamma: list[float] = Field(default=list(RANGES["gamma"]), min_length=2, max_length=2)
    epsilon: list[float] = Field(default=list(RANGES["epsilon"]), min_length=2, max_length=2)
    ranges: dict[str, list[float]] = Field(default={})
    fixed: dict[str, float | dict[str, float]] = Field(default={})
    choices: dict[str, list[str | bool | int | float | None]] = Field(default={})

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_row(kind, SPACES, "space")

    @field_validator(*_OPTIONS)
    @classmethod
    def _is_an_option(cls, number: int | None, info: ValidationInfo) -> int | None:
        kind = info.data.get("kind")
        if number is not None and kind is not None and info.field_name not in SPACES[kind].options:
            raise PydanticCustomError("option", "the space '{kind}' has none; leave it out", {"kind": kind})
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
        """What the kind is told besides."""
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


def check_space(space: SpaceSection, merge: MergeDocument) -> None:
    """Raise PydanticCustomError when the space asks for what the merge does not have, or leaves nothing to search."""
    _check_choices(space, merge)
    parameters = space.parameters(merge)
    method = " or ".join(row.name for row in space.methods(merge))
    for name in RANGES:
        if name not in parameters and tuple(getattr(space, name)) != RANGES[name]:
            raise _problem("{name}: {method} has none; leave it out", name=name, method=method)
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
            raise _problem("choices.config_from: '{name}' is none of {known}", name=str(name), known=", ".join(donors))
    methods = space.methods(merge)
    for name in space.choices:
        if name in SETTINGS and not any(setting_field(name) in method.settings for method in methods):
            used = " or ".join(method.name for method in methods)
            raise _problem("choices.{name}: makes no difference to {used}", name=name, used=used)
    # The host alone may be unknown until the models are looked into; a stand-in suffices for the method.
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
