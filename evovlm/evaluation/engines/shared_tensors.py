"""Tensors that other processes of this machine read from memory: nothing is written to a disk, and all share one copy.

Needs Linux, where the memory is a file without a name (`memfd_create`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTensors:
    """Where tensors are in memory: a file for `size_bytes`, and each one's name, dtype, shape and first byte."""

    file: str
    size_bytes: int
    entries: Sequence[tuple[str, str, tuple[int, ...], int]]

    def read(self) -> Mapping[str, torch.Tensor]:
        """Return the tensors without copying them; they stay readable after the sharing has ended."""
        memory = torch.from_file(self.file, shared=False, size=self.size_bytes, dtype=torch.uint8)
        found: dict[str, torch.Tensor] = {}
        for name, dtype_name, shape, start in self.entries:
            dtype: torch.dtype = getattr(torch, dtype_name)
            end = start + torch.Size(shape).numel() * dtype.itemsize
            found[name] = memory[start:end].view(dtype).view(shape)
        return found


@contextmanager
def sharing(tensors: Mapping[str, torch.Tensor]) -> Iterator[SharedTensors]:
    """Yield where processes of the same user can read these tensors of a CPU, for as long as the context is open."""
    entries: list[tuple[str, str, tuple[int, ...], int]] = []
    # An open file of this process, which others reach through its number.
    number = os.memfd_create("evovlm")
    with os.fdopen(number, "wb") as file:
        for name, tensor in tensors.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            entries.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), file.tell()))
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        size_bytes = file.tell()
        file.flush()
        yield SharedTensors(file=f"/proc/{os.getpid()}/fd/{number}", size_bytes=size_bytes, entries=entries)
