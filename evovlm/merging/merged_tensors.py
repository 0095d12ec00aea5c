"""The tensors of one candidate, for what holds its weights: entries as they are merged, or whole tensors in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evovlm.merging.arithmetic.buffers import STORED, Raw
from evovlm.merging.merge import Merger, Sink
from evovlm.merging.models.structure import HEAD
from evovlm.merging.models.tensor_names import unit_index
from evovlm.recipes.recipe import ParameterMerge

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergedTensors:
    """A recipe merged by a merger of its template."""

    merger: Merger
    recipe: ParameterMerge

    def write_to(self, sink: Sink) -> None:
        """Pass every merged entry to `sink`. Raises as `Merger.merge` does."""
        self.merger.merge(self.recipe, sink)

    def by_unit(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """Yield every tensor of the language model as the merged checkpoint holds it: name on disk, values as stored.

        They come unit by unit (embedding, each block, head), so that tensors of one module (queries, keys and values)
        come together, and what cannot be merged is raised between two units. Memory for one unit is needed at a time.
        Tensors of the unit that are not merged are the host's; those of a vision part do not come.

        Raises as `Merger.merge` does, and FloatingPointError for a tensor that is not finite.
        """
        import torch

        new = self._new_rows()
        for names, kept in self._units():
            buffers = {name: self._start(name, new.get(name, ())) for name in names}
            self.merger.merge(self.recipe, _Buffers(buffers), names=names)
            unit = {self.merger.host.layout.disk_name(name): self._tensor(name, raw) for name, raw in buffers.items()}
            if not all(bool(torch.isfinite(tensor).all()) for tensor in unit.values()):
                raise FloatingPointError("the merged weights are not finite")
            yield unit | {name: self.merger.host.places[name].read() for name in kept}

    def _tensor(self, name: str, raw: Raw) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(raw)
        shape = self.merger.host.shape(name)
        stored = tensor.view(torch.bfloat16) if raw.dtype == np.uint16 else tensor
        return stored.view(-1, *shape[1:]) if shape else stored[0]

    def _new_rows(self) -> dict[str, list[tuple[int, Raw]]]:
        found: dict[str, list[tuple[int, Raw]]] = {}
        if any(plan.new for plan in self.merger.rows.values()):
            for name, start, values in self.merger.new_rows():
                found.setdefault(name, []).append((start, values))
        return found

    def _start(self, name: str, new: Sequence[tuple[int, Raw]]) -> Raw:
        """Return the memory of a tensor, flat, with the rows that no merge writes: the host's and new ones."""
        host, plan, shape = self.merger.host, self.merger.rows[name], self.merger.host.shape(name)
        columns = int(np.prod(shape[1:]))
        buffer: Raw = np.empty((plan.n_rows if shape else 1) * columns, dtype=STORED[host.place(name).dtype_code])
        if plan.n_merged < plan.n_rows:
            host.place(name).read_into(buffer.view(np.uint8)[: host.place(name).size_bytes].data)
        for start, values in new:
            buffer[start : start + len(values)] = values
        return buffer

    def _units(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield the merged tensors of each unit by backbone name, and its others by their names on disk."""
        merger, layout = self.merger, self.merger.host.layout
        merged: dict[int, list[str]] = {}
        for name in merger.tensor_names:
            merged.setdefault(unit_index(name, merger.n_blocks), []).append(name)
        sent = {layout.disk_name(name) for name in merger.tensor_names}
        if merger.result.tied:
            # Where a file holds it all the same, it is the embedding.
            sent.add(layout.disk_name(HEAD))
        kept: dict[int, list[str]] = {}
        for name in merger.host.places:
            in_block = name.startswith(layout.blocks_prefix)
            if name not in sent and (in_block or not layout.is_vlm):
                number = name.removeprefix(layout.blocks_prefix).partition(".")[0]
                kept.setdefault(int(number) + 1 if in_block and number.isdecimal() else 0, []).append(name)
        for unit in sorted(merged.keys() | kept.keys()):
            yield merged.get(unit, []), kept.get(unit, [])


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Writes merged entries into flat memory of each tensor."""

    buffers: dict[str, Raw]

    def write(self, name: str, start: int, values: Raw) -> None:
        self.buffers[name][start : start + len(values)] = values
