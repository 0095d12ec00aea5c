"""Experts of a mixture, one by one or joined: the same numbers in the other form.

In files, the experts of a block lie one by one (`experts.3.gate_proj.weight`, or w1, w3 and w2 for gate, up and down),
or joined: `experts.gate_up_proj` (experts, 2 x inner, hidden) and `experts.down_proj` (experts, hidden, inner), as
transformers holds them, or with the last two dimensions exchanged (Qwen3-VL-MoE as published). transformers reads all
of these forms into the same memory (`conversion_mapping.py`); here, a tensor of one form is computed from the other.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic.buffers import Vector
from evovlm.merging.checkpoint.computed import AdaptedPlace, ComputedPlace, LowRank, read_numbers, size_of
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS, PLAIN_FLOATS, TensorPlace

Part = Literal["gate", "up", "gate_up", "down"]
"""A matrix of an expert: (inner, hidden), twice that for gate and up together, (hidden, inner) for down."""

_Matrix = npt.NDArray[np.float32]

JOINED: Mapping[Part, str] = {"gate_up": "gate_up_proj", "down": "down_proj"}
"""The names of the joined tensors within the module of the experts."""
_BY_ONE = re.compile(r"(?P<module>(?:.+\.)?experts\.)(?P<number>[0-9]{1,7})\.(?P<leaf>\w+)\.weight")
_JOINED = re.compile(rf"(?P<module>(?:.+\.)?experts\.){JOINED['gate_up']}")
_LEAVES: tuple[Mapping[str, Part], ...] = (
    {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"},
    {"w1": "gate", "w3": "up", "w2": "down"},
)
_CACHED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsForm:
    """How the experts of a module are stored: how many there are, and the size of each.

    `leaves` are the parts of an expert by their names, None for joined ones; those `are_transposed` if the last two
    dimensions are exchanged.
    """

    n_experts: int
    inner: int
    hidden: int
    leaves: Mapping[str, Part] | None = None
    are_transposed: bool = False

    def shape(self, part: Part) -> tuple[int, int]:
        """Return the shape of one expert's matrix as it is multiplied by: (out, in)."""
        height = {"gate": self.inner, "up": self.inner, "gate_up": 2 * self.inner, "down": self.hidden}[part]
        return height, self.inner if part == "down" else self.hidden

    def tensors(self) -> Iterator[tuple[str, Part, tuple[int, ...], int | None]]:
        """Yield each tensor of the module: its name there, what it holds, its shape, and the one expert that it is."""
        if self.leaves is not None:
            for number in range(self.n_experts):
                for leaf, part in self.leaves.items():
                    yield f"{number}.{leaf}.weight", part, self.shape(part), number
            return
        for part, name in JOINED.items():
            height, width = self.shape(part)
            yield name, part, (self.n_experts, *((width, height) if self.are_transposed else (height, width))), None


def expert_modules(names: Iterable[str]) -> frozenset[str]:
    """Return what precedes the names of experts (`model.layers.0.mlp.experts.`), of all modules that hold some."""
    found = (_BY_ONE.fullmatch(name) or _JOINED.fullmatch(name) for name in names)
    return frozenset(match["module"] for match in found if match is not None)


def form_of(places: Mapping[str, TensorPlace], module: str) -> ExpertsForm | None:
    """Return how the experts of a module are stored in these tensors (by any names), None for another form."""
    gate_up, down = (places.get(module + name) for name in JOINED.values())
    if gate_up is not None and down is not None:
        return _joined_form(gate_up.shape, down.shape)
    for leaves in _LEAVES:
        gate = next(iter(leaves))
        first = places.get(f"{module}0.{gate}.weight")
        if first is not None and len(first.shape) == 2:
            n_experts = next(n for n in range(1, len(places) + 1) if f"{module}{n}.{gate}.weight" not in places)
            form = ExpertsForm(n_experts=n_experts, inner=first.shape[0], hidden=first.shape[1], leaves=leaves)
            return form if _fits(form, places, module) else None
    return None


def _joined_form(gate_up: tuple[int, ...], down: tuple[int, ...]) -> ExpertsForm | None:
    if len(gate_up) != 3 or len(down) != 3:
        return None
    for are_transposed in (False, True):
        hidden, inner = (down[2], down[1]) if are_transposed else (down[1], down[2])
        form = ExpertsForm(n_experts=down[0], inner=inner, hidden=hidden, are_transposed=are_transposed)
        if [shape for _, _, shape, _ in form.tensors()] == [gate_up, down]:
            return form
    return None


def _fits(form: ExpertsForm, places: Mapping[str, TensorPlace], module: str) -> bool:
    return all(
        (place := places.get(module + name)) is not None and place.shape == shape
        for name, _, shape, _ in form.tensors()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The experts of one module: what precedes their names, their form, and their tensors by the names in it."""

    module: str
    form: ExpertsForm
    places: Mapping[str, TensorPlace]

    @staticmethod
    def among(places: Mapping[str, TensorPlace], module: str) -> "Experts | None":
        """Return the experts of a module of these tensors, None where they have another form."""
        form = form_of(places, module)
        if form is None:
            return None
        found = {name: places[module + name] for name, *_ in form.tensors()}
        codes = {place.dtype_code for place in found.values()}
        is_plain = len(codes) == 1 and codes <= set(PLAIN_FLOATS)
        return Experts(module=module, form=form, places=found) if is_plain else None

    def in_form(self, form: ExpertsForm) -> "Experts":
        """Return the same experts stored in another form."""
        if form == self.form:
            return self
        places = {
            name: ExpertsPlace.of(
                self, name=name, part=part, shape=shape, only=only, are_transposed=form.are_transposed
            )
            for name, part, shape, only in form.tensors()
        }
        return replace(self, form=form, places=places)

    def adapted(self, part: Part, a: TensorPlace, b: TensorPlace, *, scale: float) -> "Experts":
        """Return the experts with `scale` B A added to a part of each ("gate_up" or "down"), one by one.

        `a` has the factors A of all experts one after the other, (experts x rank, in); `b` has those of B in turn,
        (out, rank x experts), as peft's ParamWrapper.
        """
        leaves = self.form.leaves or _LEAVES[0]
        experts = self.in_form(replace(self.form, leaves=leaves, are_transposed=False))
        rank, places = a.shape[0] // self.form.n_experts, dict(experts.places)
        for name, own, (height, width), number in experts.form.tensors():
            if number is None or (own == "down") != (part == "down"):
                continue
            # Of gate and up together, up is the lower half.
            top = height if own == "up" else 0
            left = FactorPlace.of(b, rows=range(top, top + height), rank=rank, number=number)
            size = rank * width * ITEM_BITS[a.dtype_code] // 8
            right = replace(a, shape=(rank, width), start=a.start + number * size, stop=a.start + (number + 1) * size)
            product = LowRank(left_place=left, right_place=right, scale=scale, are_transposed=False)
            places[name] = AdaptedPlace.of(places[name], product=product)
        return replace(experts, places=places)

    def matrix(self, part: Part, number: int) -> _Matrix:
        """Return a part of one expert, (out, in). Raises BrokenCheckpoint when it cannot be read."""
        form = self.form
        if form.leaves is None:
            whole = self._from_joined("down" if part == "down" else "gate_up", number)
            return {"gate": whole[: form.inner], "up": whole[form.inner :]}.get(part, whole)
        if part == "gate_up":
            return np.concatenate([self.matrix("gate", number), self.matrix("up", number)])
        leaf = next(name for name, own in form.leaves.items() if own == part)
        return read_numbers(self.places[f"{number}.{leaf}.weight"]).reshape(form.shape(part))

    def _from_joined(self, part: Part, number: int) -> _Matrix:
        place = self.places[JOINED[part]]
        size = math.prod(place.shape[1:])
        stored = read_numbers(place, number * size, size).reshape(place.shape[1:])
        return stored.T if self.form.are_transposed else stored


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertsPlace(ComputedPlace):
    """A tensor of experts that are stored in another form: a `part` of all of them, or of the `only` one it names."""

    experts: Experts
    part: Part
    only: int | None
    are_transposed: bool

    @staticmethod
    def of(
        experts: Experts, *, name: str, part: Part, shape: tuple[int, ...], only: int | None, are_transposed: bool
    ) -> "ExpertsPlace":
        """Return the tensor of this name in the module and this shape, in the dtype of the experts."""
        first = next(iter(experts.places.values()))
        return ExpertsPlace(
            file=first.file,
            name=experts.module + name,
            dtype_code=first.dtype_code,
            shape=shape,
            start=0,
            stop=size_of(shape, first.dtype_code),
            experts=experts,
            part=part,
            only=only,
            are_transposed=are_transposed,
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def numbers(self, first: int, count: int) -> Vector:
        """Return the numbers of the experts."""
        size = math.prod(self.experts.form.shape(self.part))
        if self.only is not None:
            return _flat(self, self.only)[first : first + count].copy()
        out = np.empty(count, dtype=np.float32)
        for number in range(first // size, -(-(first + count) // size)):
            start, stop = max(first, number * size), min(first + count, (number + 1) * size)
            out[start - first : stop - first] = _flat(self, number)[start - number * size : stop - number * size]
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPlace(ComputedPlace):
    """One expert's factor B, (out, rank), in those of all experts: (out, rank x experts), each after `step` columns."""

    source: TensorPlace
    top: int
    number: int
    step: int

    @staticmethod
    def of(source: TensorPlace, *, rows: range, rank: int, number: int) -> "FactorPlace":
        """Return the factor of an expert for some of its rows."""
        return FactorPlace(
            file=source.file,
            name=source.name,
            dtype_code=source.dtype_code,
            shape=(len(rows), rank),
            start=0,
            stop=size_of((len(rows), rank), source.dtype_code),
            source=source,
            top=rows.start,
            number=number,
            step=source.shape[1] // rank,
        )

    def numbers(self, first: int, count: int) -> Vector:
        """Return the numbers of the factor."""
        rows = _whole(self.source)[self.top : self.top + self.shape[0], self.number :: self.step]
        return np.ascontiguousarray(rows).reshape(-1)[first : first + count]


@lru_cache(maxsize=2)
def _whole(place: TensorPlace) -> _Matrix:
    return read_numbers(place).reshape(place.shape)


@lru_cache(maxsize=_CACHED)
def _flat(place: ExpertsPlace, number: int) -> Vector:
    """Return a part of one expert as it is stored; a chunk is often smaller."""
    matrix = place.experts.matrix(place.part, number)
    return np.ascontiguousarray(matrix.T if place.are_transposed else matrix).reshape(-1)
