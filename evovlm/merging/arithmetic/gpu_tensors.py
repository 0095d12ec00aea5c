"""The models' tensors on a GPU, as stored, and the magnitudes of their task vectors, read there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evovlm.merging.arithmetic.buffers import STORED, Raw, widen
from evovlm.merging.arithmetic.selection import MAGNITUDE_BINS
from evovlm.merging.arithmetic.task_vector import ModelTensor, TaskVectors

_STAGED_BYTES = 64 << 20
# A pass over magnitudes holds some 30 bytes of each entry.
_ENTRIES_AT_ONCE = 1 << 23
KEPT_AS: Mapping[np.dtype[np.generic], torch.dtype] = {
    STORED["BF16"]: torch.bfloat16,
    STORED["F16"]: torch.float16,
    STORED["F32"]: torch.float32,
    STORED["F64"]: torch.float32,
}
"""How numbers are kept; float64 is rounded to float32 before any computation, so it can be kept as float32."""


@dataclass(slots=True, kw_only=True, eq=False)
class GpuTensors:
    """The tensors of base and sources on the device, as stored: only the merged rows, one run after another.

    Up to `budget_bytes` of them stay there after their first use; the others are read again for each use.
    """

    device: torch.device
    budget_bytes: int
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _finite: set[tuple[str, str]] = field(default_factory=set)
    _staged: Tensor | None = None
    # Plans are made by several threads, and their cuts are computed here.
    _lock: Lock = field(default_factory=Lock)

    def entries(self, vectors: TaskVectors, model: ModelTensor) -> Tensor:
        """Return one model's tensor, flat. Raises BrokenCheckpoint as on a CPU."""
        key = (vectors.name, model.label)
        with self._lock:
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

    def magnitudes(self, vectors: TaskVectors, index: int) -> "MagnitudesOnGpu":
        """Return the magnitudes of a source's entries, by its index."""
        return MagnitudesOnGpu(tensors=self, vectors=vectors, index=index)

    def _fetched(self, vectors: TaskVectors, model: ModelTensor) -> Tensor:
        dtype = KEPT_AS[model.dtype]
        entries = torch.empty(vectors.size, dtype=dtype, device=self.device)
        if self._staged is None:
            # Pinned memory, which the device can read by itself.
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
                # This waits for the copy, so the staging memory can be filled again.
                entries[filled : filled + piece].copy_(staged.view(dtype))
                filled += piece
        return entries


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MagnitudesOnGpu:
    """The magnitudes of one source's entries, read on the device; see Magnitudes.

    They have the bits of the CPU's: a task vector is one subtraction in float32.
    """

    tensors: GpuTensors
    vectors: TaskVectors
    index: int

    def count(self) -> npt.NDArray[np.int64]:
        """See Magnitudes."""
        counts = torch.zeros(MAGNITUDE_BINS, dtype=torch.int64, device=self.tensors.device)
        for _, bits in self._stretches():
            counts += torch.bincount(bits >> 16, minlength=MAGNITUDE_BINS)
        found: npt.NDArray[np.int64] = counts.cpu().numpy()
        return found

    def collect(self, upper: int, size: int) -> npt.NDArray[np.uint64]:
        """See Magnitudes."""
        keys = torch.empty(size, dtype=torch.int64, device=self.tensors.device)
        filled = 0
        for start, bits in self._stretches():
            own = (bits >> 16 == upper).nonzero()[:, 0]
            complement = 0xFFFF - (bits[own] & 0xFFFF).long()
            keys[filled : filled + len(own)] = (complement << 40) | (own + start)
            filled += len(own)
        found: npt.NDArray[np.uint64] = keys.sort().values.cpu().numpy().view(np.uint64)
        return found

    def _stretches(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of some entries' first one, and the bits of their magnitudes, int32."""
        vectors = self.vectors
        source = self.tensors.entries(vectors, vectors.sources[self.index])
        base = self.tensors.entries(vectors, vectors.base) if vectors.base is not None else None
        filled = 0
        for run in vectors.plan.runs:
            size = run.n_rows * vectors.columns
            for done in range(0, size, _ENTRIES_AT_ONCE):
                part = slice(filled + done, filled + min(size, done + _ENTRIES_AT_ONCE))
                values = source[part].float()
                if base is not None:
                    values = values - base[part].float()
                yield run.row * vectors.columns + done, values.view(torch.int32) & 0x7FFFFFFF
            filled += size


def _read(model: ModelTensor, offset: int, out: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Fill `out` with entries in the dtype that the device keeps."""
    if model.dtype == STORED["F64"]:
        values = out.view(np.float32)
        raw: Raw = np.empty(len(values), dtype=np.float64)
        model.read(offset, raw)
        widen(raw, values)
    else:
        model.read(offset, out.view(model.dtype))
