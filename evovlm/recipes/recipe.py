"""What a merge is, as values: a template (everything a search keeps fixed) and a recipe (template and parameters)."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from evovlm.errors import ConfigError
from evovlm.recipes.canonical import check_source_names, recipe_digest
from evovlm.recipes.model_ref import ModelRef

UnitValues = float | tuple[float, ...]
"""One number for the whole model, or one per unit: embedding, block 0..L-1, head (length L + 2)."""

Component = Literal["attention", "mlp", "norms", "rest"]
"""What a tensor is part of: a block's attention or MLP, any norm, or the rest (embedding and head)."""

Rescale = Literal["density", "l1", "none"]
Vocabulary = Literal["host", "base_rows", "union"]

COMPONENTS: tuple[Component, ...] = ("attention", "mlp", "norms", "rest")

_FIRST_SETTINGS = ("rescale", "normalize", "lambda_")
_FIRST_PARAMETERS = ("weight", "density")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByComponent:
    """A parameter that differs by component: each has its own number, or its own list with one per unit."""

    attention: UnitValues
    mlp: UnitValues
    norms: UnitValues
    rest: UnitValues


Values = UnitValues | ByComponent
"""A parameter of a source as a recipe states it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParameters:
    """A source's numbers; a method's row in the table of methods says which of them it takes.

    `weight`: any finite factor (slerp's t). `density`: the share of entries kept, in [0, 1]. `gamma`: the share of
    largest entries that breadcrumbs drops, in [0, 1]. `epsilon`: how far DELLA's keep probabilities reach to both
    sides of the density, in [0, 0.5]. Raises ConfigError for a number that is not finite or out of range, or an empty
    list.
    """

    weight: Values = 1.0
    density: Values = 1.0
    gamma: Values = 0.01
    epsilon: Values = 0.15

    def __post_init__(self) -> None:
        for name, parameter in SOURCE_PARAMETERS.items():
            values = canonical_values(getattr(self, name), name=name)
            object.__setattr__(self, name, values)
            if not all(parameter.low <= number <= parameter.high for number in numbers_of(values)):
                raise ConfigError(
                    f"{name}: {_shown(values)} is not in [{parameter.low:g}, {parameter.high:g}]; {parameter.meaning}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParameter:
    """What a number of a source may be: its range, its default, and what it is."""

    low: float
    high: float
    default: float
    meaning: str


SOURCE_PARAMETERS: Mapping[str, SourceParameter] = {
    "weight": SourceParameter(low=-math.inf, high=math.inf, default=1.0, meaning="it is the source's factor"),
    "density": SourceParameter(low=0.0, high=1.0, default=1.0, meaning="it is the share of entries kept"),
    "gamma": SourceParameter(low=0.0, high=1.0, default=0.01, meaning="it is the share of largest entries dropped"),
    "epsilon": SourceParameter(
        low=0.0, high=0.5, default=0.15, meaning="keep probabilities are the density plus and minus it"
    ),
}


def canonical_values(values: Values, *, name: str) -> Values:
    """Return `values` as plain floats, -0.0 as 0.0; raises ConfigError (naming `name`) for what is not finite."""
    if isinstance(values, ByComponent):
        return ByComponent(**{each: _canonical(getattr(values, each), name=f"{name}.{each}") for each in COMPONENTS})
    return _canonical(values, name=name)


def numbers_of(values: Values) -> tuple[float, ...]:
    """Return every number in `values`."""
    return tuple(number for part in parts_of(values) for number in (part if isinstance(part, tuple) else (part,)))


def parts_of(values: Values) -> tuple[UnitValues, ...]:
    """Return the numbers and lists that `values` is made of: itself, or one for each component."""
    return tuple(getattr(values, each) for each in COMPONENTS) if isinstance(values, ByComponent) else (values,)


def value_at(values: Values, unit: int, component: Component = "rest") -> float:
    """Return the number for a tensor of `component` in `unit` (0 = embedding, 1..L = blocks, L + 1 = head)."""
    own: UnitValues = getattr(values, component) if isinstance(values, ByComponent) else values
    return own[unit] if isinstance(own, tuple) else own


def _canonical(values: UnitValues, *, name: str) -> UnitValues:
    numbers = values if isinstance(values, tuple) else (values,)
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name}: {_shown(values)} is not a finite number, nor a list of them.")
    plain = tuple(float(number) + 0.0 for number in numbers)
    return plain if isinstance(values, tuple) else plain[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """What steers a method as a whole.

    `rescale`: what makes up for entries dropped at random; divide by the density, restore the L1 norm, or nothing.
    `normalize`: divide by the sum of weights; None takes the method's own default.
    `lambda_`: the factor on the summed task vectors.
    `row_wise`: take angles and lengths row by row, not of the whole tensor (nuslerp, model_stock).
    `select_topk`: the share of entries that SCE keeps, those that vary most among the sources, in [0, 1].
    `max_iterations`, `tolerance`: when the Karcher mean's iteration ends.
    Raises ConfigError for a number that is not finite or out of range.
    """

    rescale: Rescale = "density"
    normalize: bool | None = None
    lambda_: float = 1.0
    row_wise: bool = False
    select_topk: float = 1.0
    max_iterations: int = 10
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("lambda_", "select_topk", "tolerance"):
            object.__setattr__(self, name, _canonical(getattr(self, name), name=name.rstrip("_")))
        if not 0.0 <= self.select_topk <= 1.0:
            raise ConfigError(f"select_topk: {self.select_topk} is not in [0, 1]; it is the share of entries kept.")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations: {self.max_iterations} is below 1.")

    def changed(self) -> Mapping[str, object]:
        """Return the settings that are not at their defaults, by name."""
        defaults = MergeSettings()
        names = (each.name for each in fields(self))
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(defaults, name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTemplate:
    """A parameter-space merge without its parameters: what a search keeps fixed.

    `host` gives config, tokenizer, processor and unmerged tensors; `base` is what task vectors are taken from;
    `seed` names the random draws of DARE and DELLA; `vocabulary` says what to do when vocabularies differ;
    `config_from` names the model ("base", "host" or a source) whose rope, sliding window, norm eps and tied head the
    result takes (None: the host's).
    """

    host: ModelRef
    sources: Mapping[str, ModelRef]
    method: str
    base: ModelRef | None = None
    settings: MergeSettings = field(default_factory=MergeSettings)
    seed: int = 0
    vocabulary: Vocabulary | None = None
    config_from: str | None = None

    def __post_init__(self) -> None:
        if self.config_from == "host":
            object.__setattr__(self, "config_from", None)
        known = {*self.sources, *(["base"] if self.base else [])}
        if self.config_from is not None and self.config_from not in known:
            raise ConfigError(f"config_from: '{self.config_from}' is none of host, {', '.join(sorted(known))}.")
        if not self.sources:
            raise ConfigError("sources: a merge needs at least one source.")
        check_source_names(self.sources)
        object.__setattr__(self, "sources", dict(self.sources))

    def recipe(self, parameters: Mapping[str, SourceParameters]) -> "ParameterMerge":
        """Return the recipe that this template and `parameters` (one entry per source) make."""
        return ParameterMerge(
            host=self.host,
            sources=self.sources,
            method=self.method,
            base=self.base,
            settings=self.settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
            config_from=self.config_from,
            parameters=parameters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMerge(MergeTemplate):
    """A complete statement of one merge in parameter space.

    Raises ConfigError when `parameters` does not have exactly the names of `sources`, or when lists of two lengths
    are given (every list has one number per unit of the same model).
    """

    parameters: Mapping[str, SourceParameters]

    def __post_init__(self) -> None:
        MergeTemplate.__post_init__(self)
        missing = sorted(set(self.sources) - set(self.parameters))
        unknown = sorted(set(self.parameters) - set(self.sources))
        if missing or unknown:
            raise ConfigError(
                f"parameters: {_named('missing for', missing)}{_named('given for the unknown', unknown)}"
                f"sources are {', '.join(sorted(self.sources))}."
            )
        lengths = sorted(self.unit_lengths())
        if len(lengths) > 1:
            raise ConfigError(
                f"parameters: lists of {' and of '.join(map(str, lengths))} numbers; "
                "each needs one number per unit (embedding, each block, head)."
            )
        object.__setattr__(self, "parameters", dict(self.parameters))

    @property
    def template(self) -> MergeTemplate:
        """The recipe without its parameters."""
        return MergeTemplate(
            host=self.host,
            sources=self.sources,
            method=self.method,
            base=self.base,
            settings=self.settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
            config_from=self.config_from,
        )

    @property
    def recipe_id(self) -> str:
        """12 hexadecimal digits that stand for everything the recipe says.

        The order of the sources says nothing, nor does the way in which a local folder is written.
        """
        canonical: dict[str, object] = {
            "kind": "parameter_merge",
            "base": self.base.identity if self.base else None,
            "host": self.host.identity,
            "sources": {name: ref.identity for name, ref in self.sources.items()},
            "method": self.method,
            # What has come to the format since its beginning counts only where it is used.
            "settings": {**{name: getattr(self.settings, name) for name in _FIRST_SETTINGS}, **self.settings.changed()},
            "seed": self.seed,
            "vocabulary": self.vocabulary,
            "parameters": {name: _canonical_parameters(numbers) for name, numbers in self.parameters.items()},
        }
        if self.config_from is not None:
            canonical["config_from"] = self.config_from
        return recipe_digest(canonical)

    def with_parameters(self, parameters: Mapping[str, SourceParameters]) -> "ParameterMerge":
        """Return the same merge with other numbers."""
        return replace(self, parameters=parameters)

    def unit_lengths(self) -> frozenset[int]:
        """The lengths of the lists among the parameters; each should be the model's number of units, L + 2."""
        values = (getattr(numbers, name) for numbers in self.parameters.values() for name in SOURCE_PARAMETERS)
        return frozenset(len(part) for value in values for part in parts_of(value) if isinstance(part, tuple))


def _canonical_parameters(numbers: SourceParameters) -> Mapping[str, object]:
    found = {name: _collapsed(getattr(numbers, name)) for name in SOURCE_PARAMETERS}
    return {
        name: value
        for name, value in found.items()
        if name in _FIRST_PARAMETERS or value != SOURCE_PARAMETERS[name].default
    }


def _collapsed(values: Values) -> object:
    if isinstance(values, ByComponent):
        parts = {name: _collapsed(getattr(values, name)) for name in COMPONENTS}
        same = len({json.dumps(part) for part in parts.values()}) == 1
        return parts["rest"] if same else parts
    return values[0] if isinstance(values, tuple) and len(set(values)) == 1 else values


def _named(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names)}; " if names else ""


def _shown(values: object) -> str:
    text = str(values)
    return text if len(text) <= 80 else text[:77] + "..."
