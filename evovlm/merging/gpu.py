"""Computes combinations on a GPU, directly in a model's parameters, with the same bits as on a CPU.

Base and sources stay in device memory in their stored dtype; one kernel launch reads each of their entries once and
writes the result. Cuts by magnitude are computed on the device too; what else a method computes from a whole tensor,
and the combination itself, is determined on the CPU.

Imported only on a machine with a GPU: it needs torch and Triton.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evovlm.devices import device_memory, spare_bytes
from evovlm.merging.arithmetic import gpu_kernels
from evovlm.merging.arithmetic.buffers import STORED
from evovlm.merging.arithmetic.combination import Combination, Keep, KeepBetween, KeepDrawn, Term
from evovlm.merging.arithmetic.gpu_tensors import KEPT_AS, GpuTensors
from evovlm.merging.arithmetic.selection import ALL, NOTHING, Cut
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.merging.merge import Merger, Sink, TensorPlan
from evovlm.recipes.recipe import ParameterMerge

_TABLE_NUMBERS = 1 << 16
_EVERYTHING = Cut(bits=0, last=1 << 62)
_CODES: Mapping[torch.dtype, int] = {
    torch.bfloat16: gpu_kernels.BFLOAT16.value,
    torch.float16: gpu_kernels.FLOAT16.value,
    torch.float32: gpu_kernels.FLOAT32.value,
}


@dataclass(slots=True, kw_only=True, eq=False)
class _Tables:
    """Passes the kernel's tables to the device without waiting for it, each in its own part of a buffer."""

    device: torch.device
    _numbers: Tensor = field(init=False)
    _copies: Tensor = field(init=False)
    _used: int = 0

    def __post_init__(self) -> None:
        pinned = self.device.type == "cuda"
        self._numbers = torch.empty(_TABLE_NUMBERS, dtype=torch.int64, pin_memory=pinned)
        self._copies = torch.empty(_TABLE_NUMBERS, dtype=torch.int64, device=self.device)

    def put(self, numbers: list[int]) -> Tensor:
        """Return the numbers on the device; valid for launches before the next `put`."""
        if self._used + len(numbers) > _TABLE_NUMBERS:
            if self.device.type == "cuda":
                # The device may still be reading the buffer.
                torch.cuda.current_stream(self.device).synchronize()
            self._used = 0
        part = slice(self._used, self._used + len(numbers))
        # Unsigned numbers are stored as the int64 with the same bits.
        self._numbers[part].numpy()[:] = [number - (1 << 64) if number >> 63 > 0 else number for number in numbers]
        self._copies[part].copy_(self._numbers[part], non_blocking=True)
        # Padded to an even length, so that every table begins at a multiple of 16 bytes.
        self._used += len(numbers) + len(numbers) % 2
        return self._copies[part]


@dataclass(slots=True, kw_only=True, eq=False)
class GpuCombiner:
    """Computes combinations on the device of `tensors`, and records whether all results are finite."""

    tensors: GpuTensors
    _tables: _Tables = field(init=False)
    _flag: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._tables = _Tables(device=self.tensors.device)
        self._flag = torch.zeros(1, dtype=torch.int32, device=self.tensors.device)

    def combine(self, vectors: TaskVectors, combination: Combination, *, stored: torch.dtype, out: Tensor) -> None:
        """Write the merged entries into `out` (the flat result), after rounding to `stored`.

        The combination must be `is_combinable`. Raises BrokenCheckpoint as `combine` on the CPU does.
        """
        sources = [self.tensors.entries(vectors, vectors.sources[term.index]) for term in combination.terms]
        base = self.tensors.entries(vectors, vectors.base) if vectors.base is not None else None
        # Kept until the launch: memory that is freed after it is not reused before the kernel has run.
        factors = [
            None if term.row_factors is None else torch.from_numpy(term.row_factors).to(self.tensors.device)
            for term in combination.terms
        ]
        inputs = _Inputs(combination=combination, base=base, sources=sources, factors=factors)
        filled = 0
        for run in vectors.plan.runs:
            span = _Span(start=run.row * vectors.columns, size=run.n_rows * vectors.columns, filled=filled)
            if span.size:
                table = self._tables.put(_table(inputs, span, row_length=vectors.row_length, out=out, flag=self._flag))
                # Triton launches on the current device.
                with torch.cuda.device(out.device) if out.device.type == "cuda" else nullcontext():
                    _launch(table, inputs, span, stored=stored, out=out)
            filled += span.size

    def begin(self) -> None:
        """Reset the record of finite results."""
        self._flag.zero_()

    def is_finite(self) -> bool:
        """Return whether all entries computed since `begin` are finite; waits for the device."""
        return not bool(self._flag.item())


def is_combinable(combination: Combination) -> bool:
    """Return whether the kernel can compute it; what depends on ranks, rows or several sources is left to the CPU."""
    kinds = {type(term.keep) for term in combination.terms if term.keep is not None}
    have_row_factors = {term.row_factors is not None for term in combination.terms}
    if combination.across is not None or len(have_row_factors) > 1:
        return False
    if combination.fused:
        return not kinds and True not in have_row_factors
    return kinds in (set(), {KeepDrawn}, {KeepBetween})


class _Span(NamedTuple):
    """Entries `start` .. `start + size - 1` of the result, merged from the models' entries from `filled` on."""

    start: int
    size: int
    filled: int

    @property
    def skipped(self) -> int:
        """Number of entries between the beginning of the first one's block of draws and that entry."""
        return self.start % 8

    def address(self, entries: Tensor, number: int) -> int:
        """Return the address where the block of draws begins, which may be before the first entry."""
        return entries.data_ptr() + (number - self.skipped) * entries.element_size()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inputs:
    """A combination, with the entries of the base and of each term's source and its row factors on the device."""

    combination: Combination
    base: Tensor | None
    sources: list[Tensor]
    factors: list[Tensor | None]


def _table(inputs: _Inputs, span: _Span, *, row_length: int, out: Tensor, flag: Tensor) -> list[int]:
    """Return the kernel's table: a header, then the fields of each term."""
    combination = inputs.combination
    election = combination.election
    with np.errstate(all="ignore"):
        numbers = [
            span.address(out, span.start),
            flag.data_ptr(),
            span.start - span.skipped,
            span.skipped,
            span.skipped + span.size,
            0 if inputs.base is None else span.address(inputs.base, span.filled),
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
                span.address(source, span.filled),
                _bits(term.first),
                _bits(term.second),
                *_selection(term.keep),
                _bits(mix),
                _bits(by),
                0 if factors is None else factors.data_ptr(),
            ]
    return numbers


def _selection(keep: Keep | None) -> tuple[int, int, int, int, int, int]:
    """Return key, limit and cuts; those that keep everything for a source without a rule."""
    if isinstance(keep, KeepDrawn):
        return (keep.key, keep.limit, 0, 0, 0, 0)
    low, high = (keep.low, keep.high) if isinstance(keep, KeepBetween) else (_EVERYTHING, NOTHING)
    return (0, ALL, low.bits, low.last, high.bits, high.last)


def _bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))


def _launch(table: Tensor, inputs: _Inputs, span: _Span, *, stored: torch.dtype, out: Tensor) -> None:
    combination = inputs.combination
    kinds = {type(term.keep) for term in combination.terms}
    keep = gpu_kernels.KEEP_DRAWN if KeepDrawn in kinds else gpu_kernels.KEEP_ALL
    election = combination.election
    if election is None:
        join = gpu_kernels.FUSED if combination.fused else gpu_kernels.PLAIN
    else:
        join = gpu_kernels.ELECTED if election.divisor_weights is None else gpu_kernels.ELECTED_MEAN
    n_entries = span.skipped + span.size
    addresses = [span.address(source, span.filled) for source in (inputs.base, *inputs.sources) if source is not None]
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
        ALIGNED=not any(number % 8 for number in (span.start, span.size))
        and not any(address % 16 for address in (*addresses, span.address(out, span.start))),
        SIZE=gpu_kernels.BLOCK,
        num_warps=gpu_kernels.N_WARPS,
        enable_fp_fusion=False,
    )


class GpuMerger:
    """Merges the models of `merger` into `parameters` (flat, by backbone name), which are all on one device.

    Tensors that are not among them are merged on the CPU. A tensor is rounded to the host's stored dtype before it is
    written to a parameter, as on a CPU.
    """

    def __init__(self, merger: Merger, parameters: Mapping[str, Tensor]) -> None:
        self._merger = merger
        self._parameters = parameters
        device = next(iter(parameters.values())).device
        budget = spare_bytes(*device_memory(device)) if device.type == "cuda" else 0
        tensors = GpuTensors(device=device, budget_bytes=budget)
        self._combiner = GpuCombiner(tensors=tensors)
        merger.read_magnitudes_on(tensors.magnitudes)

    def variant(self, merger: Merger) -> "GpuMerger":
        """Return a merger for a variant of the CPU merger that shares the models on the device."""
        found = copy(self)
        found._merger = merger
        return found

    def merge(self, recipe: ParameterMerge, rest: Sink) -> bool:
        """Merge as `Merger.merge` does; tensors that the device cannot merge are merged on the CPU into `rest`.

        Returns whether all results on the device are finite. Raises as `Merger.merge` does.
        """
        # Here and not at the end, because the previous candidate may have failed before its end.
        self._combiner.begin()
        self._merger.carry_out(self._combined(recipe), rest)
        return self._combiner.is_finite()

    def _combined(self, recipe: ParameterMerge) -> Iterator[TensorPlan]:
        """Merge what the device can; yield the plans of the other tensors one by one, because they may be large."""
        for plan in self._merger.plans(recipe):
            combination = _combination(plan, n_sources=len(self._merger.source_names))
            name = plan.vectors.name
            if combination is None or name not in self._parameters:
                yield plan
                continue
            # A source that is copied must not have the base subtracted and added again.
            is_copy = isinstance(plan.planned, int)
            vectors = replace(plan.vectors, base=None) if is_copy else plan.vectors
            stored = KEPT_AS[STORED[self._merger.host.place(name).dtype_code]]
            self._combiner.combine(vectors, combination, stored=stored, out=self._parameters[name])


def _combination(plan: TensorPlan, *, n_sources: int) -> Combination | None:
    """Return the combination for the device; None if it cannot compute it."""
    if isinstance(plan.planned, int):
        # For slerp, the base precedes the one source.
        index = len(plan.vectors.sources) - n_sources + plan.planned
        return Combination(terms=(Term(index=index, first=1.0),))
    return plan.planned if is_combinable(plan.planned) else None
