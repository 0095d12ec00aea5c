"""The weights of a checkpoint folder: one safetensors file or several with an index, written in any order.

What a merged model keeps from its host is copied, and compared again after writing, in bounded memory.
"""

import json
import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.safetensors_file import CHUNK_BYTES, TensorPlace, differing_chunk, tensor_places
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor, SafetensorsWriter
from evovlm.recipes.checkpoint_files import INDEX_FILE, SINGLE_FILE


class WriteObserver(Protocol):
    """Is called after every chunk that is written, by one thread at a time but not always by the same."""

    def on_progress(self, *, done_bytes: int, total_bytes: int, tensors_done: int, tensors_total: int) -> None:
        """Take note; the writer waits meanwhile."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class ShardedWriter:
    """Writes tensors into their files, and reports to the observer; made by `open_shards`."""

    observer: WriteObserver | None
    _files: Mapping[str, SafetensorsWriter]
    _left: dict[str, int]
    _total_bytes: int
    _done_bytes: int = 0
    _done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, name: str, start_byte: int, content: memoryview | bytes | bytearray) -> None:
        """Write bytes of a tensor from its byte `start_byte` on; threads may write at the same time.

        Every byte should be written once: progress counts them. Raises ValueError when they do not fit into the
        tensor, OSError when the disk refuses the write.
        """
        self._files[name].write(name, start_byte, content)
        written = memoryview(content).nbytes
        with self._lock:
            self._done_bytes += written
            self._left[name] -= written
            self._done += not self._left[name]
            self._report()

    def _report(self) -> None:
        if self.observer is not None:
            self.observer.on_progress(
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
                tensors_done=self._done,
                tensors_total=len(self._left),
            )


@contextmanager
def open_shards(
    folder: Path, tensors: Sequence[PlannedTensor], *, shard_bytes: int, observer: WriteObserver | None = None
) -> Iterator[ShardedWriter]:
    """Create the files of at most `shard_bytes` (or one tensor) at full size, and close them once they are on the disk.

    The files take the tensors in the given order. Raises OSError when the disk refuses a write.
    """
    shards = _sharded(tensors, shard_bytes)
    names = [SINGLE_FILE] if len(shards) == 1 else [_shard_name(n, of=len(shards)) for n in range(1, len(shards) + 1)]
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        (folder / INDEX_FILE).write_text(_index(tensors, weight_map), encoding="utf-8")
    with ExitStack() as opened:
        files: dict[str, SafetensorsWriter] = {}
        for name, shard in zip(names, shards, strict=True):
            file = opened.enter_context(SafetensorsWriter.create(folder / name, shard))
            files |= {tensor.name: file for tensor in shard}
        yield ShardedWriter(
            observer=observer,
            _files=files,
            _left={tensor.name: tensor.size_bytes for tensor in tensors},
            _total_bytes=sum(tensor.size_bytes for tensor in tensors),
            _done=sum(not tensor.size_bytes for tensor in tensors),
        )


class KeptBytes(NamedTuple):
    """Bytes `start` .. `stop - 1` of the result's tensor `name`, which are the same in the host's tensor at `place`."""

    name: str
    place: TensorPlace
    start: int
    stop: int


def copy_kept(kept: Iterable[KeptBytes], writer: ShardedWriter) -> None:
    """Copy the host's bytes; raises BrokenCheckpoint when they cannot be read, OSError when they cannot be written."""
    buffer = bytearray(CHUNK_BYTES)
    for each in kept:
        for start in range(each.start, each.stop, CHUNK_BYTES):
            view = memoryview(buffer)[: each.stop - start]
            each.place.read_into(view, start=start)
            writer.write(each.name, start, view)


def check_kept(folder: Path, kept: Sequence[KeptBytes]) -> None:
    """Read the host's bytes and the written ones again; raise BrokenCheckpoint where they differ."""
    if not kept:
        return
    written: Mapping[str, TensorPlace] = {
        name: place for file in sorted(folder.glob("*.safetensors")) for name, place in tensor_places(file).items()
    }
    for each in kept:
        chunk = differing_chunk(written[each.name], each.place, start=each.start, stop=each.stop)
        if chunk is not None:
            raise BrokenCheckpoint(
                f"{folder}: {each.name} differs from the host's between byte {chunk.start} and {chunk.stop}. "
                "Check the disk."
            )


def _shard_name(number: int, *, of: int) -> str:
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def _index(tensors: Sequence[PlannedTensor], weight_map: Mapping[str, str]) -> str:
    """Return the index as transformers 5 writes it."""
    metadata = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "total_size": sum(tensor.size_bytes for tensor in tensors),
    }
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _sharded(tensors: Sequence[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size_bytes
    return shards
