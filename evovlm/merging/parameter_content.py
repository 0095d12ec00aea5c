"""The tensors and files that a merge in parameter space writes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evovlm.merging.arithmetic.buffers import Raw
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor
from evovlm.merging.checkpoint.shards import KeptBytes, ShardedWriter
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.vocabulary import extend_tokenizer
from evovlm.recipes.recipe import ParameterMerge


@dataclass(frozen=True, slots=True, eq=False)
class ParameterContent:
    """The tensors of one recipe, merged by a merger of its template. Implements `Content` of the writer."""

    merger: Merger
    recipe: ParameterMerge

    @property
    def host(self) -> Checkpoint:
        """The model whose files and unmerged tensors the result takes."""
        return self.merger.host

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        return self.merger.warnings

    def made(self) -> list[PlannedTensor]:
        """Return the merged tensors."""
        host = self.host
        return [
            PlannedTensor(
                name=host.layout.disk_name(name),
                dtype_code=host.place(name).dtype_code,
                shape=(plan.n_rows, *shape[1:]) if (shape := host.shape(name)) else (),
            )
            for name, plan in self.merger.rows.items()
        ]

    def copied(self) -> list[PlannedTensor]:
        """Return the tensors outside the backbone."""
        return [_planned(name, self.host) for name in self.host.other_names()]

    def kept(self) -> list[KeptBytes]:
        """Return the bytes that stay the host's: the tensors outside the backbone, and its rows of merged ones."""
        whole = [
            KeptBytes(name=name, place=self.host.places[name], start=0, stop=self.host.places[name].size_bytes)
            for name in self.host.other_names()
        ]
        return [*whole, *self._kept_rows()]

    def write(self, writer: ShardedWriter) -> None:
        """Merge everything that is not kept, and write it into the files."""
        sink = _FileSink(self.merger, writer)
        self.merger.merge(self.recipe, sink)
        for name, start, values in self.merger.new_rows():
            sink.write(name, start, values)

    def write_files(self, folder: Path) -> None:
        """Change config, tokenizer and generation config where they differ from the host's, which the folder holds."""
        result = self.merger.result
        if not result.is_hosts or self.host.has_own_config:
            text = json.dumps(result.config, ensure_ascii=False, indent=2) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")
        if result.new_tokens:
            extend_tokenizer(folder, result.new_tokens)
        if result.chat is not None:
            result.chat.write(folder, self.merger.token_rows())

    def _kept_rows(self) -> Iterator[KeptBytes]:
        for name, plan in self.merger.rows.items():
            place = self.host.place(name)
            n_rows = next(iter(place.shape), 1)
            width = place.size_bytes // n_rows if n_rows else 0
            for rows in plan.kept(n_rows):
                disk_name = self.host.layout.disk_name(name)
                yield KeptBytes(name=disk_name, place=place, start=rows.start * width, stop=rows.stop * width)


def _planned(name: str, host: Checkpoint) -> PlannedTensor:
    place = host.places[name]
    return PlannedTensor(name=name, dtype_code=place.dtype_code, shape=place.shape)


@dataclass(frozen=True, slots=True)
class _FileSink:
    """Writes merged entries into the files."""

    merger: Merger
    writer: ShardedWriter

    def write(self, name: str, start: int, values: Raw) -> None:
        disk_name = self.merger.host.layout.disk_name(name)
        self.writer.write(disk_name, start * values.dtype.itemsize, values.view(np.uint8).data)
