"""Projected features of pictures, kept for all candidates of a run: in memory up to a limit, then in a file."""

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from evovlm.errors import NotEnoughRoom
from evovlm.resources import available_memory_bytes

# The model, its cache and the cached entries of a merge need memory too.
_MEMORY_SHARE = 0.25
_MEMORY_IF_UNKNOWN_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedPictures:
    """The output of a model's processor for pictures: the text in place of each, and the total number of image tokens.

    `grid` holds the number of patches of each picture in time, height and width, int64, shape (pictures, 3); None for a
    model without positions in several dimensions.
    """

    texts: tuple[str, ...]
    n_tokens: int
    grid: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Location:
    """Where features are in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class FeatureStore:
    """Features by key, each computed once, of one model whose vision encoder and projector never change.

    At most `memory_bytes` are kept in memory (default: a quarter of the free memory), all others in an unnamed file in
    `folder` (default: the system's folder for temporary files), which disappears with the store or its process.
    """

    def __init__(self, *, memory_bytes: int | None = None, folder: Path | None = None) -> None:
        if memory_bytes is None:
            available = available_memory_bytes()
            memory_bytes = _MEMORY_IF_UNKNOWN_BYTES if available is None else int(_MEMORY_SHARE * available)
        self._left_bytes = memory_bytes
        self._folder = folder
        self._shown: dict[str, ProcessedPictures] = {}
        self._in_memory: dict[str, Tensor] = {}
        self._in_file: dict[str, _Location] = {}
        self._file: RawIOBase | None = None
        self._end = 0

    @property
    def spilled_bytes(self) -> int:
        """Size of the file."""
        return self._end

    def shown(self, key: str) -> ProcessedPictures | None:
        """Return what was stored under this key; None if nothing was."""
        return self._shown.get(key)

    def put(self, key: str, features: Tensor, *, shown: ProcessedPictures) -> None:
        """Store features, shape (image tokens, width), in their dtype. Raises NotEnoughRoom when the disk is full."""
        kept = features.detach().to("cpu", copy=True).contiguous()
        if kept.nbytes <= self._left_bytes:
            self._left_bytes -= kept.nbytes
            self._in_memory[key] = kept
        else:
            self._in_file[key] = self._append(kept)
        self._shown[key] = shown

    def read(self, keys: Sequence[str]) -> Tensor:
        """Return the concatenated features of several keys, on the CPU. Raises KeyError for an unknown key."""
        parts = [self._in_memory[key] if key in self._in_memory else self._load(self._in_file[key]) for key in keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _append(self, features: Tensor) -> _Location:
        location = _Location(offset=self._end, shape=tuple(features.shape), dtype=features.dtype)
        content = features.view(torch.uint8).numpy().tobytes()
        written, rest = 0, memoryview(content)
        try:
            if self._file is None:
                self._file = _unnamed_file(self._folder)
                weakref.finalize(self, self._file.close)
            self._file.seek(location.offset)
            while written < len(content):
                written += self._file.write(rest[written:]) or 0
        except OSError as error:
            raise NotEnoughRoom(
                f"{self._folder or tempfile.gettempdir()}: cannot keep {self._end + len(content):,} bytes of image "
                f"features there ({error}).\n"
                "    Free some of the disk, set TMPDIR to a folder on a larger one, or score fewer samples."
            ) from error
        self._end += len(content)
        return location

    def _load(self, location: _Location) -> Tensor:
        if self._file is None:
            raise KeyError("nothing was written")
        size_bytes = torch.Size(location.shape).numel() * location.dtype.itemsize
        content = bytearray(size_bytes)
        rest = memoryview(content)
        self._file.seek(location.offset)
        while rest and (count := self._file.readinto(rest)):
            rest = rest[count:]
        return torch.frombuffer(content, dtype=location.dtype).view(location.shape)


def _unnamed_file(folder: Path | None) -> RawIOBase:
    # Unbuffered, so that a full disk is reported by the write that fails.
    return cast(RawIOBase, tempfile.TemporaryFile(dir=folder, buffering=0, prefix="evovlm-"))
