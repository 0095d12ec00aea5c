"""Numbers that vary over a model: mergekit's gradients and filters on one side, one number per unit on the other.

mergekit writes a number, a list (a "gradient": piecewise linear over the blocks), or entries {filter, value} of which
the first counts whose filter is a part of the tensor's name. A recipe has one number per unit, or per component.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from evovlm.errors import ConfigError
from evovlm.recipes.families import ANY_BLOCK, TEXT_FAMILIES
from evovlm.recipes.source_values import COMPONENTS, ByComponent, Component, UnitValues, Values, name_in_block, parts_of
from evovlm.recipes.yaml_text import KeyPath

Kind = Literal["number", "flag"]
Scalar: TypeAlias = float | bool

_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# What YAML 1.1, which mergekit reads, takes for a truth value, as 1.2 reads it: as text.
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Refusal(Exception):
    """Something of a mergekit file that has no equivalent in a recipe: its location, and why."""

    def __init__(self, place: KeyPath, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


class Tensor(NamedTuple):
    """A tensor of the result: `part` is the slice it comes from, `t` in [0, 1] where its block lies in that slice."""

    name: str
    unit: int
    component: Component
    part: int
    t: float


class Scope(NamedTuple):
    """A setting and its location; the first scope that has a value for a tensor counts."""

    place: KeyPath
    setting: object


class Found(NamedTuple):
    """A value and its location."""

    value: Scalar
    place: KeyPath


class Condition(NamedTuple):
    """An entry {filter, value} of mergekit's; without a filter it holds for every tensor."""

    filter: str | None
    value: UnitValues


def is_plain(setting: object) -> bool:
    """Whether the setting has one value for all tensors, whatever the model."""
    return not isinstance(setting, (Mapping, list))


def tensors_of(model_type: str, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the tensors of a model of `model_type` whose blocks come from slices of these lengths, in order."""
    last = len(lengths) - 1
    head = sum(lengths) + 1
    # Filters are matched against names, so which tensors a block has decides what a filter means.
    names = TEXT_FAMILIES[model_type].block_tensors if model_type in TEXT_FAMILIES else ANY_BLOCK
    found = [Tensor("model.embed_tokens.weight", 0, "rest", 0, 0.0)]
    unit = 1
    for part, length in enumerate(lengths):
        for index in range(length):
            for name in names:
                place = f"model.layers.{unit - 1}.{name}"
                found.append(Tensor(place, unit, _component(name), part, block_position(index, length)))
            unit += 1
    # Final norm and head take the first value of a gradient, as the embedding does, but of the last slice.
    found.append(Tensor("model.norm.weight", head, "norms", last, 0.0))
    found.append(Tensor("lm_head.weight", head, "rest", last, 0.0))
    return tuple(found)


def block_position(index: int, length: int) -> float:
    """Return mergekit's position in [0, 1] of block `index` of a slice: a single block lies at the end."""
    return index / (length - 1) if length > 1 else 1.0


def gradient_value(numbers: Sequence[float], t: float) -> float:
    """Return the value at `t` in [0, 1] of the line through evenly spaced `numbers`, rounded as mergekit rounds it."""
    scaled = t * (len(numbers) - 1)
    before = int(scaled)
    after = min(before + 1, len(numbers) - 1)
    share = scaled - before
    return (1 - share) * numbers[before] + share * numbers[after]


def resolve(scopes: Sequence[Scope], tensor: Tensor, *, kind: Kind) -> Found | None:
    """Return the value that the scopes, first to last, give the tensor; raises Refusal for another kind of value."""
    for scope in scopes:
        found = _evaluate(scope.setting, scope.place, tensor, kind)
        if found is not None:
            return found
    return None


def values_of(tensors: Sequence[Tensor], lookup: Callable[[Tensor], Found], *, n_units: int) -> Values:
    """Return the numbers that `lookup` gives the tensors as a recipe states them.

    The number of a component in a unit is that of most of its tensors (of the first ones, if as many have another);
    tensors with other numbers are listed singly.
    """
    found: defaultdict[tuple[Component, int], list[float]] = defaultdict(list)
    single: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for tensor in tensors:
        number = float(lookup(tensor).value)
        found[tensor.component, tensor.unit].append(number)
        single[name_in_block(tensor.name)][tensor.unit] = number
    cells = {cell: Counter(numbers).most_common(1)[0][0] for cell, numbers in found.items()}
    components = {name_in_block(tensor.name): tensor.component for tensor in tensors}
    others = {
        name: numbers
        for name, numbers in single.items()
        if any(cells[components[name], unit] != number for unit, number in numbers.items())
    }
    plain: list[float] = []
    for unit in range(n_units):
        here = {value for (_, of), value in cells.items() if of == unit}
        plain.extend(here if len(here) == 1 else ())
    if len(plain) == n_units and not others:
        return _collapsed(plain)
    parts = {each: {unit: value for (of, unit), value in cells.items() if of == each} for each in COMPONENTS}
    return ByComponent(
        attention=_collapsed(_filled(parts["attention"], n_units)),
        mlp=_collapsed(_filled(parts["mlp"], n_units)),
        norms=_collapsed(_filled(parts["norms"], n_units)),
        rest=_collapsed(_filled(parts["rest"], n_units)),
        tensors=tuple((name, _collapsed(_filled(numbers, n_units))) for name, numbers in sorted(others.items())),
    )


def conditions_of(values: Values, n_blocks: int) -> float | tuple[Condition, ...]:
    """Return what gives mergekit exactly these numbers: one for all, or entries in the order in which they count."""
    parts = {_collapsed(_per_unit(part, n_blocks)) for part in parts_of(values)}
    if len(parts) == 1:
        (only,) = parts
        return _whole_units(only, n_blocks) if isinstance(only, tuple) else only
    if not isinstance(values, ByComponent):
        raise TypeError(values)
    if values.further:
        names = ", ".join(name for name, _ in values.further)
        raise ConfigError(f"parameters: numbers for {names} have no form in mergekit; it filters by parts of names.")
    attention, mlp, norms, rest = (_per_unit(getattr(values, each), n_blocks) for each in COMPONENTS)
    found = [
        Condition("embed_tokens", rest[0]),
        Condition("lm_head", rest[-1]),
        Condition("model.norm.", norms[-1]),
    ]
    single = {name: _per_unit(part, n_blocks) for name, part in values.tensors}
    for name, numbers in single.items():
        found += [Condition(f"model.layers.{b}.{name}", numbers[b + 1]) for b in _inexact(numbers[1:-1])]
        found.append(Condition(name, _collapsed(numbers[1:-1])))
    for block in sorted({b for numbers in (attention, mlp, norms) for b in _inexact(numbers[1:-1])}):
        here = f"model.layers.{block}."
        # Norms inside the attention come before the attention as a whole.
        found += [Condition(f"{here}self_attn.{name}_norm", norms[block + 1]) for name in "qk"]
        found.append(Condition(f"{here}self_attn.", attention[block + 1]))
        found.append(Condition(f"{here}mlp.", mlp[block + 1]))
        found.append(Condition(here, norms[block + 1]))
    for name, numbers in (("norm", norms), ("self_attn.", attention), ("mlp.", mlp)):
        found.append(Condition(name, _collapsed(numbers[1:-1])))
    return tuple(found)


def _whole_units(numbers: tuple[float, ...], n_blocks: int) -> tuple[Condition, ...]:
    blocks = numbers[1 : n_blocks + 1]
    return (
        Condition("embed_tokens", numbers[0]),
        *(Condition(f"model.layers.{block}.", blocks[block]) for block in _inexact(blocks)),
        Condition("model.layers.", _collapsed(blocks)),
        Condition(None, numbers[-1]),
    )


def _inexact(blocks: Sequence[float]) -> list[int]:
    """Return the blocks whose number a gradient through all of them would miss by a rounding error."""
    if len(set(blocks)) == 1:
        return []
    n_blocks = len(blocks)
    return [b for b in range(n_blocks) if gradient_value(blocks, block_position(b, n_blocks)) != blocks[b]]


def _component(name: str) -> Component:
    if "norm" in name:
        return "norms"
    return "attention" if name.startswith("self_attn.") else "mlp"


def _evaluate(setting: object, place: KeyPath, tensor: Tensor, kind: Kind) -> Found | None:
    if isinstance(setting, Mapping):
        return _first_match([setting], [place], tensor, kind)
    if not isinstance(setting, list):
        return Found(_scalar(setting, place, kind), place)
    if any(isinstance(entry, Mapping) for entry in setting):
        return _first_match(setting, [(*place, index) for index in range(len(setting))], tensor, kind)
    return _along(setting, place, tensor, kind)


def _first_match(entries: Sequence[object], places: Sequence[KeyPath], tensor: Tensor, kind: Kind) -> Found | None:
    for entry, place in zip(entries, places, strict=True):
        if not isinstance(entry, Mapping) or "value" not in entry or set(entry) - {"filter", "value"}:
            raise Refusal(place, "should be an entry {filter: TEXT, value: NUMBER or list of numbers}.")
        part, value = entry.get("filter"), entry["value"]
        if part is not None and not isinstance(part, str):
            raise Refusal(place, f"filter: should be text, a part of tensor names (found {part!r}).")
        if part is None or part == "*" or part in tensor.name:
            inner = (*place, "value")
            return (
                _along(value, inner, tensor, kind)
                if isinstance(value, list)
                else Found(_scalar(value, inner, kind), inner)
            )
    return None


def _along(values: list[object], place: KeyPath, tensor: Tensor, kind: Kind) -> Found | None:
    if not values:
        return None
    scalars = [_scalar(value, place, kind) for value in values]
    if kind == "flag":
        return Found(scalars[int(tensor.t * (len(scalars) - 1))], place)
    return Found(gradient_value(scalars, tensor.t), place)


def _scalar(value: object, place: KeyPath, kind: Kind) -> Scalar:
    if kind == "flag":
        flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
        if flag is None:
            raise Refusal(place, f"should be true or false (found {value!r}).")
        return flag
    # Text too: 1e-3 without a dot is text to YAML 1.1, and mergekit takes the number in it.
    text = "" if isinstance(value, bool) else str(value)
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise Refusal(place, f"should be a number (found {value!r}).")
    return float(text)


def _filled(own: Mapping[int, float], n_units: int) -> list[float]:
    """Return one number per unit; in units without a tensor, that of the unit before (after) it."""
    current = own[min(own)]
    found: list[float] = []
    for unit in range(n_units):
        current = own.get(unit, current)
        found.append(current)
    return found


def _per_unit(part: UnitValues, n_blocks: int) -> tuple[float, ...]:
    return part if isinstance(part, tuple) else (part,) * (n_blocks + 2)


def _collapsed(numbers: Sequence[float]) -> UnitValues:
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
