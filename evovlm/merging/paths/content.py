"""The content of a checkpoint folder for a path through layers: one block per hop, with the scales in its weights."""

import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evovlm.errors import BrokenCheckpoint, ConfigError
from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import STORED, Raw, narrow, widen
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor
from evovlm.merging.checkpoint.shards import KeptBytes, ShardedWriter
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.in_turn import default_threads
from evovlm.merging.paths.plan import PathPlan, PathTensor

_CHUNK = 262_144


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathContent:
    """The tensors of one path. Implements `Content` of the writer.

    Tensors without a scale are copied byte for byte if the host stores them in the same dtype. All others are computed
    in float32 and rounded once to the host's dtype: a weight with a folded scale differs from the running path's by
    that rounding (in bfloat16 by up to 0.2 %; for a norm whose factor is its weight plus 1, by up to 0.2 % of the
    larger of weight and factor). In float32 the two differ only through the norms' eps.
    """

    plan: PathPlan
    allow_non_finite: bool = False

    @property
    def host(self) -> Checkpoint:
        """The model whose files and other tensors the folder takes."""
        return self.plan.host

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be written but may be harmful."""
        return self.plan.warnings

    def made(self) -> list[PlannedTensor]:
        """Return the language model's tensors."""
        return [tensor.planned for tensor in self.plan.tensors if tensor.is_backbone]

    def copied(self) -> list[PlannedTensor]:
        """Return the tensors that do not belong to the language model."""
        return [tensor.planned for tensor in self.plan.tensors if not tensor.is_backbone]

    def kept(self) -> list[KeptBytes]:
        """Return the bytes that are copied from a model unchanged."""
        return [
            KeptBytes(name=tensor.planned.name, place=tensor.place, start=0, stop=tensor.place.size_bytes)
            for tensor in self.plan.tensors
            if tensor.is_copy
        ]

    def write(self, writer: ShardedWriter) -> None:
        """Write all tensors that are not copied, and check that those of copied blocks are finite.

        Raises BrokenCheckpoint when a model holds numbers that are not finite, ConfigError when a scale makes them so
        in the host's dtype.
        """
        chunks = [
            (tensor, start)
            for tensor in self.plan.tensors
            if tensor.is_backbone
            for start in range(0, math.prod(tensor.planned.shape), _CHUNK)
        ]
        _for_all(chunks, lambda chunk: self._write_chunk(*chunk, writer))

    def write_files(self, folder: Path) -> None:
        """Write the path's own config.json over the host's, and change what it takes from others about chatting."""
        text = json.dumps(self.plan.config, ensure_ascii=False, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        self.plan.path_host.write_chat(folder)

    def _write_chunk(self, tensor: PathTensor, start: int, writer: ShardedWriter) -> None:
        own, stored = STORED[tensor.place.dtype_code], STORED[tensor.planned.dtype_code]
        size = min(_CHUNK, math.prod(tensor.planned.shape) - start)
        raw: Raw = np.empty(size, dtype=own)
        tensor.place.read_into(raw.view(np.uint8).data, start=start * own.itemsize)
        given, result = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
        out: Raw = np.empty(size, dtype=stored)
        # Overflows become infinite, which is checked below.
        with np.errstate(all="ignore"):
            widen(raw, given)
            np.multiply(given, np.float32(tensor.change.factor), out=result)
            if tensor.change.shift:
                np.add(result, np.float32(tensor.change.shift), out=result)
            narrow(result, out)
            widen(out, result)
        if not self.allow_non_finite and not kernels.is_finite(result):
            raise self._not_finite(tensor, were_finite=kernels.is_finite(given))
        if not tensor.is_copy:
            writer.write(tensor.planned.name, start * stored.itemsize, out.view(np.uint8).data)

    def _not_finite(self, tensor: PathTensor, *, were_finite: bool) -> Exception:
        if were_finite:
            return ConfigError(
                f"{tensor.planned.name}: the path's scales multiply it by {tensor.change.factor:g}, so its numbers do "
                f"not fit into {tensor.planned.dtype_code}.\n    Use scales nearer to 1."
            )
        return BrokenCheckpoint(
            f"{tensor.place.file}: {tensor.place.name} holds numbers that are not finite.\n"
            "    Use another checkpoint, or merge with --allow-non-finite."
        )


def _for_all(chunks: Iterable[tuple[PathTensor, int]], do: Callable[[tuple[PathTensor, int]], None]) -> None:
    with ThreadPoolExecutor(default_threads()) as pool:
        try:
            for _ in pool.map(do, chunks):
                pass
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
