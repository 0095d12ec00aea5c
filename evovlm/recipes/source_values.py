"""The numbers of a merge's sources: one for the whole model, or by unit, component and tensor.

They are also the form of a recipe's file: pydantic checks text against them (documents.py).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

from pydantic import ConfigDict, PlainSerializer, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError

UnitValues = float | tuple[float, ...]
"""One number for the whole model, or one per unit: embedding, block 0..L-1, head (length L + 2)."""

FurtherComponent = Literal["linear_attention", "cross_attention", "experts", "router"]
"""What blocks of some architectures have: attention with a fixed state, attention to pictures, and mixtures of experts.

Where a parameter does not have a number for it, that of the component in BASE_COMPONENTS counts.
"""

Component = Literal["attention", "mlp", "norms", "rest"] | FurtherComponent
"""What a tensor is part of: a block's attention or MLP, any norm, or the rest (embedding and head)."""

COMPONENTS: tuple[Component, ...] = ("attention", "mlp", "norms", "rest")
BASE_COMPONENTS: Mapping[Component, Component] = {
    "linear_attention": "attention",
    "cross_attention": "attention",
    "experts": "mlp",
    "router": "mlp",
}

_FIRST_PARAMETERS = ("weight", "density")
_TENSOR_NAME = re.compile(r"\w+(\.\w+)+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByComponent:
    """A parameter that differs by component: each has its own number, or its own list with one per unit.

    `tensors` are numbers of single tensors, which count before those of their component: pairs of a tensor's name
    within its block (`self_attn.q_proj.weight`; see `name_in_block`) and its number or list, sorted. `further` are
    those of components that only some architectures have.
    """

    attention: UnitValues
    mlp: UnitValues
    norms: UnitValues
    rest: UnitValues
    tensors: tuple[tuple[str, UnitValues], ...] = ()
    further: tuple[tuple[Component, UnitValues], ...] = ()

    @property
    def named(self) -> tuple[tuple[str, UnitValues], ...]:
        """The numbers beside those of the four components that every model has, by their names in a recipe."""
        return (*self.further, *self.tensors)


Values = UnitValues | ByComponent
"""A parameter of a source as a recipe states it."""


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
        parts = {each: _canonical(getattr(values, each), name=f"{name}.{each}") for each in COMPONENTS}
        tensors = tuple((each, _canonical(part, name=f"{name}.{each}")) for each, part in sorted(values.tensors))
        further = tuple((each, _canonical(part, name=f"{name}.{each}")) for each, part in sorted(values.further))
        return ByComponent(**parts, tensors=tensors, further=further)
    return _canonical(values, name=name)


def numbers_of(values: Values) -> tuple[float, ...]:
    """Return every number in `values`."""
    return tuple(number for part in parts_of(values) for number in (part if isinstance(part, tuple) else (part,)))


def parts_of(values: Values) -> tuple[UnitValues, ...]:
    """Return the numbers and lists that `values` consists of: itself, or those of each component and tensor."""
    if not isinstance(values, ByComponent):
        return (values,)
    return (*(getattr(values, each) for each in COMPONENTS), *(part for _, part in values.named))


def value_at(values: Values, unit: int, component: Component = "rest", tensor: str | None = None) -> float:
    """Return the number for a tensor of `component` in `unit` (0 = embedding, 1..L = blocks, L + 1 = head).

    `tensor` is its name within its block; without it, numbers of single tensors do not count.
    """
    own: UnitValues
    if isinstance(values, ByComponent):
        base = getattr(values, BASE_COMPONENTS.get(component, component))
        named = dict(values.named)
        own = named.get(tensor or "", named.get(component, base))
    else:
        own = values
    return own[unit] if isinstance(own, tuple) else own


def name_in_block(tensor: str) -> str:
    """Return a tensor's name within its block (`mlp.up_proj.weight`), the whole name of one outside of the blocks."""
    return re.sub(r"^model\.layers\.\d+\.", "", tensor)


def _plain(values: Values) -> Any:
    if isinstance(values, ByComponent):
        parts = {each: _plain(getattr(values, each)) for each in COMPONENTS}
        return {**parts, **{name: _plain(part) for name, part in values.named}}
    return list(values) if isinstance(values, tuple) else values


def _canonical(values: UnitValues, *, name: str) -> UnitValues:
    numbers = values if isinstance(values, tuple) else (values,)
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name}: {_shown(values)} is not a finite number or a list of finite numbers.")
    plain = tuple(float(number) + 0.0 for number in numbers)
    return plain if isinstance(values, tuple) else plain[0]


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Return whether this is a finite number of a file; True is not."""
    # True is an int to Python, never to a reader of YAML.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_unit_values(value: object) -> UnitValues:
    numbers: list[object] = list(value) if isinstance(value, (list, tuple)) else [value]
    plain = tuple(float(number) for number in numbers if is_finite_number(number))
    if not plain or len(plain) < len(numbers):
        raise PydanticCustomError(
            "unit_values", "should be a number, or a list with one number per unit (embedding, each block, head)"
        )
    return plain if isinstance(value, (list, tuple)) else plain[0]


def _as_values(value: object, info: ValidationInfo) -> Values:
    if isinstance(value, Mapping):
        named = [str(name) for name in value if name not in (*COMPONENTS, *BASE_COMPONENTS)]
        if not set(COMPONENTS) <= set(value) or not all(_TENSOR_NAME.fullmatch(name) for name in named):
            raise PydanticCustomError(
                "by_component",
                "by component needs the keys {keys}, and takes {further} and names of tensors in a block besides",
                {"keys": ", ".join(COMPONENTS), "further": ", ".join(BASE_COMPONENTS)},
            )
        values: Values = ByComponent(
            **{name: _as_unit_values(value[name]) for name in COMPONENTS},
            tensors=tuple((name, _as_unit_values(value[name])) for name in sorted(named)),
            further=tuple((name, _as_unit_values(value[name])) for name in sorted(BASE_COMPONENTS) if name in value),
        )
    else:
        values = value if isinstance(value, ByComponent) else _as_unit_values(value)
    parameter = SOURCE_PARAMETERS[str(info.field_name)]
    if not all(parameter.low <= number <= parameter.high for number in numbers_of(values)):
        raise PydanticCustomError(
            "range",
            "should be in [{low}, {high}], as {meaning}",
            {"low": f"{parameter.low:g}", "high": f"{parameter.high:g}", "meaning": parameter.meaning},
        )
    return values


# Without this serializer, pydantic checks its plain form of a list against the type of the value.
_Numbers = Annotated[Values, PlainValidator(_as_values), PlainSerializer(_plain)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParameters:
    """A source's numbers; the table of methods says which of them a method uses.

    `weight`: any finite factor (slerp's t). `density`: the share of entries kept, in [0, 1]. `gamma`: the share of
    largest entries that breadcrumbs drops, in [0, 1]. `epsilon`: how far DELLA's keep probabilities reach to both
    sides of the density, in [0, 0.5]. Raises ConfigError for a number that is not finite or out of range, or an empty
    list.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    weight: _Numbers = 1.0
    density: _Numbers = 1.0
    gamma: _Numbers = 0.01
    epsilon: _Numbers = 0.15

    def __post_init__(self) -> None:
        for name, parameter in SOURCE_PARAMETERS.items():
            values = canonical_values(getattr(self, name), name=name)
            object.__setattr__(self, name, values)
            if not all(parameter.low <= number <= parameter.high for number in numbers_of(values)):
                raise ConfigError(
                    f"{name}: {_shown(values)} is not in [{parameter.low:g}, {parameter.high:g}]; {parameter.meaning}."
                )

    def as_values(self) -> dict[str, Any]:
        """Return weight, density, and what is not at its default, as plain values."""
        found = {name: getattr(self, name) for name in SOURCE_PARAMETERS}
        return {
            name: _plain(values)
            for name, values in found.items()
            if name in _FIRST_PARAMETERS or values != SOURCE_PARAMETERS[name].default
        }


def canonical_parameters(numbers: SourceParameters) -> Mapping[str, object]:
    """Return a source's numbers as they count for a recipe's id: equal ones as one, without later defaults."""
    found = {name: _collapsed(getattr(numbers, name)) for name in SOURCE_PARAMETERS}
    return {
        name: value
        for name, value in found.items()
        if name in _FIRST_PARAMETERS or value != SOURCE_PARAMETERS[name].default
    }


def _collapsed(values: Values) -> object:
    if isinstance(values, ByComponent):
        parts: dict[str, object] = {name: _collapsed(getattr(values, name)) for name in COMPONENTS}
        parts |= {name: _collapsed(part) for name, part in values.named}
        same = len({json.dumps(part) for part in parts.values()}) == 1
        return parts["rest"] if same else parts
    return values[0] if isinstance(values, tuple) and len(set(values)) == 1 else values


def _shown(values: object) -> str:
    text = str(values)
    return text if len(text) <= 80 else text[:77] + "..."
