"""Carries combinations out on a GPU, straight into a model's parameters, with the bits that a CPU would give them.

Base and sources stay in the device's memory as they are stored; one kernel launch reads each entry once and writes the
result's. What a method needs to know of a whole tensor, and how it combines the sources, is worked out on the CPU.

Imported only where there is a GPU: it needs torch and Triton.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evovlm.merging.arithmetic import gpu_kernels
from evovlm.merging.arithmetic.buffers import STORED, Raw, widen
from evovlm.merging.arithmetic.combination import Combination, Keep, KeepBetween, KeepDrawn, Term
from evovlm.merging.arithmetic.selection import ALL, NOTHING, Cut
from evovlm.merging.arithmetic.task_vector import ModelTensor, TaskVectors
from evovlm.merging.merge import Merger, Sink, TensorPlan
from evovlm.recipes.recipe import ParameterMerge

RESERVED_SHARE = 0.25
"""This share of the device's memory is left to generation: sources that would take of it are not kept there."""

_STAGED_BYTES = 64 << 20
_TABLE_NUMBERS = 1 << 16
_EVERYTHING = Cut(bits=0, last=1 << 62)
_CODES: Mapping[torch.dtype, int] = {
    torch.bfloat16: gpu_kernels.BFLOAT16.value,
    torch.float16: gpu_kernels.FLOAT16.value,
    torch.float32: gpu_kernels.FLOAT32.value,
}
# float64 becomes float32 before anything is done with it, so that it may as well be kept so.
_KEPT_AS: Mapping[np.dtype[np.generic], torch.dtype] = {
    STORED["BF16"]: torch.bfloat16,
    STORED["F16"]: torch.float16,
    STORED["F32"]: torch.float32,
    STORED["F64"]: torch.float32,
}


def spare_bytes(device: torch.device) -> int:
    """Return how much of a CUDA device's memory the sources may take now."""
    free, total = torch.cuda.mem_get_info(device)
    return max(0, free - int(RESERVED_SHARE * total))


@dataclass(slots=True, kw_only=True, eq=False)
class GpuTensors:
    """The tensors of base and sources, on the device as stored: the rows that are merged, run after run.

    Up to `budget_bytes` of them stay there from their first use on; the others are read again whenever they are used.
    """

    device: torch.device
    budget_bytes: int
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _finite: set[tuple[str, str]] = field(default_factory=set)
    _staged: Tensor | None = None

    def entries(self, vectors: TaskVectors, model: ModelTensor) -> Tensor:
        """Return one model's tensor, flat; raises BrokenCheckpoint as reading it on a CPU would."""
        key = (vectors.name, model.label)
        if key in self._kept:
            return self._kept[key]
        entries = self._fetched(vectors, model)
        if key not in self._finite and not vectors.allow_non_finite:
            if not bool(torch.isfinite(entries).all()):
                raise vectors.not_finite(model)
            self._finite.add(key)
        if entries.nbytes <= self.budget_bytes:
            self.budget_bytes -= entries.nbytes
            self._kept[key] = entries
        return entries

    def _fetched(self, vectors: TaskVectors, model: ModelTensor) -> Tensor:
        dtype = _KEPT_AS[model.dtype]
        entries = torch.empty(vectors.size, dtype=dtype, device=self.device)
        if self._staged is None:
            # Pinned, so that the device fetches from it by itself.
            pinned = self.device.type == "cuda"
            self._staged = torch.empty(_STAGED_BYTES, dtype=torch.uint8, pin_memory=pinned)
        step = len(self._staged) // dtype.itemsize
        filled = 0
        for run in vectors.plan.runs:
            first, size = run.starts[model.label] * vectors.columns, run.n_rows * vectors.columns
            for done in range(0, size, step):
                piece = min(step, size - done)
                staged = self._staged[: piece * dtype.itemsize]
                _read(model, first + done, staged.numpy())
                # Returns once it is copied, so that the stage may be filled again.
                entries[filled : filled + piece].copy_(staged.view(dtype))
                filled += piece
        return entries


def _read(model: ModelTensor, offset: int, out: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Fill `out` with entries as the device keeps them."""
    if model.dtype == STORED["F64"]:
        values = out.view(np.float32)
        raw: Raw = np.empty(len(values), dtype=np.float64)
        model.read(offset, raw)
        widen(raw, values)
    else:
        model.read(offset, out.view(model.dtype))


@dataclass(slots=True, kw_only=True, eq=False)
class _Tables:
    """Hands the kernel's numbers to the device without waiting for it, in a piece of memory for each launch."""

    device: torch.device
    _numbers: Tensor = field(init=False)
    _copies: Tensor = field(init=False)
    _used: int = 0

    def __post_init__(self) -> None:
        pinned = self.device.type == "cuda"
        self._numbers = torch.empty(_TABLE_NUMBERS, dtype=torch.int64, pin_memory=pinned)
        self._copies = torch.empty(_TABLE_NUMBERS, dtype=torch.int64, device=self.device)

    def put(self, numbers: list[int]) -> Tensor:
        """Return where the numbers lie on the device; good for what is launched before the next `put`."""
        if self._used + len(numbers) > _TABLE_NUMBERS:
            if self.device.type == "cuda":
                # The device may still be fetching what lies there.
                torch.cuda.current_stream(self.device).synchronize()
            self._used = 0
        place = slice(self._used, self._used + len(numbers))
        # As int64 what was unsigned: the same bits.
        self._numbers[place].numpy()[:] = [number - (1 << 64) if number >> 63 > 0 else number for number in numbers]
        self._copies[place].copy_(self._numbers[place], non_blocking=True)
        # An even number, so that every table begins at a multiple of 16 bytes.
        self._used += len(numbers) + len(numbers) % 2
        return self._copies[place]


@dataclass(slots=True, kw_only=True, eq=False)
class GpuCombiner:
    """Carries combinations out on the device of `tensors`, and notes whether all that it made is finite."""

    tensors: GpuTensors
    _tables: _Tables = field(init=False)
    _flag: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._tables = _Tables(device=self.tensors.device)
        self._flag = torch.zeros(1, dtype=torch.int32, device=self.tensors.device)

    def combine(self, vectors: TaskVectors, combination: Combination, *, stored: torch.dtype, out: Tensor) -> None:
        """Write the merged entries into `out` (the flat result), rounded to `stored` first.

        Only for one that `is_combinable`. Raises BrokenCheckpoint as `combine` on the CPU does.
        """
        sources = [self.tensors.entries(vectors, vectors.sources[term.index]) for term in combination.terms]
        base = self.tensors.entries(vectors, vectors.base) if vectors.base is not None else None
        # Held until the kernel is launched: memory that is let go after that is not used before it has run.
        factors = [
            None if term.row_factors is None else torch.from_numpy(term.row_factors).to(self.tensors.device)
            for term in combination.terms
        ]
        inputs = _Inputs(combination=combination, base=base, sources=sources, factors=factors)
        filled = 0
        for run in vectors.plan.runs:
            place = _Place(start=run.row * vectors.columns, size=run.n_rows * vectors.columns, filled=filled)
            if place.size:
                table = self._tables.put(_table(inputs, place, row_length=vectors.row_length, out=out, flag=self._flag))
                # Triton launches on whichever device is the current one.
                with torch.cuda.device(out.device) if out.device.type == "cuda" else nullcontext():
                    _launch(table, inputs, place, stored=stored, out=out)
            filled += place.size

    def begin(self) -> None:
        """Forget what was made until now."""
        self._flag.zero_()

    def is_finite(self) -> bool:
        """Whether all entries made since `begin` are finite; waits for the device."""
        return not bool(self._flag.item())


def is_combinable(combination: Combination) -> bool:
    """Whether the kernel carries it out: what goes by ranks or by variance is left to the CPU."""
    kinds = {type(term.keep) for term in combination.terms if term.keep is not None}
    have_row_factors = {term.row_factors is not None for term in combination.terms}
    if combination.varying is not None or len(have_row_factors) > 1:
        return False
    if combination.fused:
        return not kinds and True not in have_row_factors
    return kinds in (set(), {KeepDrawn}, {KeepBetween})


class _Place(NamedTuple):
    """Entries `start` .. `start + size - 1` of the result, which are made of the models' entries from `filled` on."""

    start: int
    size: int
    filled: int

    @property
    def skipped(self) -> int:
        """How many entries lie between the first and where its block of draws begins."""
        return self.start % 8

    def address(self, entries: Tensor, number: int) -> int:
        """Return where the entry lies that stands at the beginning of the block of draws; it may lie before all."""
        return entries.data_ptr() + (number - self.skipped) * entries.element_size()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    """A combination, and on the device the entries of the base and of each term's source, and its row factors."""

    combination: Combination
    base: Tensor | None
    sources: list[Tensor]
    factors: list[Tensor | None]


def _table(inputs: _Inputs, place: _Place, *, row_length: int, out: Tensor, flag: Tensor) -> list[int]:
    """Return the kernel's numbers, in its order: a header, and the fields of each term."""
    combination = inputs.combination
    election = combination.election
    with np.errstate(all="ignore"):
        numbers = [
            place.address(out, place.start),
            flag.data_ptr(),
            place.start - place.skipped,
            place.skipped,
            place.skipped + place.size,
            0 if inputs.base is None else place.address(inputs.base, place.filled),
            _bits(combination.divisor),
            _bits(combination.lambda_),
            _bits(0.0 if election is None else election.least),
            row_length,
        ]
        for number, (term, source, factors) in enumerate(
            zip(combination.terms, inputs.sources, inputs.factors, strict=True)
        ):
            mix = 0.0 if election is None else election.mix_weights[number]
            by = 0.0 if election is None or election.divisor_weights is None else election.divisor_weights[number]
            numbers += [
                place.address(source, place.filled),
                _bits(term.first),
                _bits(term.second),
                *_selection(term.keep),
                _bits(mix),
                _bits(by),
                0 if factors is None else factors.data_ptr(),
            ]
    return numbers


def _selection(keep: Keep | None) -> tuple[int, int, int, int, int, int]:
    """Return key, limit and cuts; for a source of which all is kept those that keep all."""
    if isinstance(keep, KeepDrawn):
        return (keep.key, keep.limit, 0, 0, 0, 0)
    low, high = (keep.low, keep.high) if isinstance(keep, KeepBetween) else (_EVERYTHING, NOTHING)
    return (0, ALL, low.bits, low.last, high.bits, high.last)


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))


def _launch(table: Tensor, inputs: _Inputs, place: _Place, *, stored: torch.dtype, out: Tensor) -> None:
    combination = inputs.combination
    kinds = {type(term.keep) for term in combination.terms}
    keep = gpu_kernels.KEEP_DRAWN if KeepDrawn in kinds else gpu_kernels.KEEP_ALL
    election = combination.election
    if election is None:
        join = gpu_kernels.FUSED if combination.fused else gpu_kernels.PLAIN
    else:
        join = gpu_kernels.ELECTED if election.divisor_weights is None else gpu_kernels.ELECTED_MEAN
    n_entries = place.skipped + place.size
    addresses = [place.address(source, place.filled) for source in (inputs.base, *inputs.sources) if source is not None]
    gpu_kernels.combine_entries[(-(-n_entries // gpu_kernels.BLOCK),)](
        table,
        DTYPES=tuple(
            _CODES[torch.float32 if source is None else source.dtype] for source in (inputs.base, *inputs.sources)
        ),
        STORED=_CODES[stored],
        PARAMETER=_CODES[out.dtype],
        HAS_BASE=inputs.base is not None,
        KEEP=(gpu_kernels.KEEP_BETWEEN if KeepBetween in kinds else keep).value,
        JOIN=join.value,
        HAS_ROW_FACTORS=any(factors is not None for factors in inputs.factors),
        DIVIDED=combination.divisor != 1 and election is None,
        ALIGNED=not any(number % 8 for number in (place.start, place.size))
        and not any(address % 16 for address in (*addresses, place.address(out, place.start))),
        SIZE=gpu_kernels.BLOCK,
        num_warps=gpu_kernels.N_WARPS,
        enable_fp_fusion=False,
    )


class GpuMerger:
    """Merges the models of `merger` into `parameters` (flat, by backbone name), all on one device.

    A tensor is rounded to the dtype that the host stores it in before it goes into a parameter, as on a CPU.
    """

    def __init__(self, merger: Merger, parameters: Mapping[str, Tensor]) -> None:
        self._merger = merger
        self._parameters = parameters
        device = next(iter(parameters.values())).device
        budget = spare_bytes(device) if device.type == "cuda" else 0
        self._combiner = GpuCombiner(tensors=GpuTensors(device=device, budget_bytes=budget))

    def variant(self, merger: Merger) -> "GpuMerger":
        """Return what merges for a variant of the merger, with the same models on the device."""
        found = copy(self)
        found._merger = merger
        return found

    def merge(self, recipe: ParameterMerge, rest: Sink) -> bool:
        """Merge as `Merger.merge` does; what the device cannot do goes through `rest`, merged on the CPU.

        Returns whether all that was merged on the device is finite. Raises as `Merger.merge` does.
        """
        # At the beginning, not at the end: the candidate before may have failed on the way.
        self._combiner.begin()
        left = []
        for plan in self._merger.plans(recipe):
            combination = _combination(plan, n_sources=len(self._merger.source_names))
            name = plan.vectors.name
            if combination is None:
                left.append(plan)
                continue
            # The one source, where it is just that, is not moved away from the base and back.
            alone = isinstance(plan.planned, int)
            vectors = replace(plan.vectors, base=None) if alone else plan.vectors
            stored = _KEPT_AS[STORED[self._merger.host.place(name).dtype_code]]
            self._combiner.combine(vectors, combination, stored=stored, out=self._parameters[name])
        self._merger.carry_out(left, rest)
        return self._combiner.is_finite()


def _combination(plan: TensorPlan, *, n_sources: int) -> Combination | None:
    """Return what the device does for a tensor; None if it cannot."""
    if isinstance(plan.planned, int):
        # For slerp the base stands before its one source.
        index = len(plan.vectors.sources) - n_sources + plan.planned
        return Combination(terms=(Term(index=index, first=1.0),))
    return plan.planned if is_combinable(plan.planned) else None
