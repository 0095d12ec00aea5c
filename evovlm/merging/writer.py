"""A merged model as an ordinary checkpoint folder: all of it appears at once, or nothing does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evovlm.errors import OutputExists
from evovlm.merging.floats import Raw
from evovlm.merging.host_files import copy_host_files, host_files
from evovlm.merging.kept_bytes import KeptBytes, check_kept, copy_kept
from evovlm.merging.merge import Merger
from evovlm.merging.model_card import model_card
from evovlm.merging.output_folder import check_space, explained, new_folder
from evovlm.merging.progress import WriteObserver
from evovlm.merging.safetensors_file import TensorPlace
from evovlm.merging.safetensors_writer import PlannedTensor
from evovlm.merging.shards import ShardedWriter, open_shards
from evovlm.merging.union_tokenizer import union_tokenizer
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.recipe import ParameterMerge

SHARD_BYTES = 5_000_000_000
RECIPE_FILE = "recipe.yaml"
# Headers, the recipe, the model card, and what the file system itself takes.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCheckpoint:
    """What was written: `n_merged` and `n_copied` tensors, `size_bytes` of weights, and the merger's warnings."""

    folder: Path
    recipe_id: str
    n_merged: int
    n_copied: int
    size_bytes: int
    warnings: tuple[str, ...]


def write_checkpoint(
    recipe: ParameterMerge,
    out: Path,
    *,
    merger: Merger | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    allow_non_finite: bool = False,
    observer: WriteObserver | None = None,
) -> WrittenCheckpoint:
    """Merge as the recipe says and write the result to the folder `out`, new or (with `overwrite`) in place of a model.

    Config, tokenizer, processor and unmerged tensors are the host's, byte for byte (checked after writing), but for
    what the recipe's `config_from` and `vocabulary: union` change in config and tokenizer; `recipe.yaml` and a model
    card are added. The work is done in a sibling folder, which a killed run leaves behind and the next one removes.
    `merger` spares opening the models again, and decides itself on `allow_non_finite`.
    Raises OutputExists when `out` exists and may not be replaced, OutputError when it cannot be written, ModelError or
    ConfigError when the recipe cannot be merged.
    """
    out = out.absolute()
    if overwrite:
        _refuse_inputs(recipe, out)
    with new_folder(out, overwrite=overwrite) as partial:
        merger = merger or Merger.open(recipe, allow_non_finite=allow_non_finite)
        merger.check(recipe)
        merged = _merged_tensors(merger)
        copied = [_planned(name, merger.host.places[name]) for name in merger.host.other_names()]
        planned = [*merged, *copied]
        size_bytes = sum(tensor.size_bytes for tensor in planned)
        beside = sum(file.stat().st_size for file in host_files(merger.host.folder))
        recipe_text = recipe_to_yaml(recipe, folder=out)
        with explained(out):
            check_space(out, partial, needed_bytes=size_bytes + beside + _SPARE_BYTES)
            with open_shards(partial, planned, shard_bytes=shard_bytes, observer=observer) as writer:
                kept = [*_whole_kept(merger), *_kept_rows(merger)]
                copy_kept(kept, writer)
                merger.merge(recipe, _FileSink(merger, writer))
                _write_new_rows(merger, writer)
            check_kept(partial, kept)
            copy_host_files(merger.host.folder, partial)
            _write_what_is_not_the_hosts(partial, merger)
            (partial / RECIPE_FILE).write_text(recipe_text, encoding="utf-8")
            card = model_card(recipe, recipe_text=recipe_text, warnings=merger.warnings)
            (partial / "README.md").write_text(card, encoding="utf-8")
    return WrittenCheckpoint(
        folder=out,
        recipe_id=recipe.recipe_id,
        n_merged=len(merged),
        n_copied=len(copied),
        size_bytes=size_bytes,
        warnings=merger.warnings,
    )


def _refuse_inputs(recipe: ParameterMerge, out: Path) -> None:
    """Raise OutputExists when a model of the recipe lies in the folder to be replaced."""
    if not out.is_dir():
        return
    replaced = out.resolve()
    for ref in (recipe.host, *([recipe.base] if recipe.base else []), *recipe.sources.values()):
        folder = ref.resolve().resolve()
        if folder.is_relative_to(replaced):
            raise OutputExists(
                f"{out} holds '{ref.text}', which this recipe merges, and is not replaced.\n    Name another folder."
            )


def _planned(name: str, place: TensorPlace) -> PlannedTensor:
    return PlannedTensor(name=name, dtype_code=place.dtype_code, shape=place.shape)


def _merged_tensors(merger: Merger) -> list[PlannedTensor]:
    host = merger.host
    return [
        PlannedTensor(
            name=host.layout.disk_name(name),
            dtype_code=host.place(name).dtype_code,
            shape=(plan.n_rows, *host.shape(name)[1:]),
        )
        for name, plan in merger.rows.items()
    ]


@dataclass(frozen=True, slots=True)
class _FileSink:
    """Puts merged entries into the files."""

    merger: Merger
    writer: ShardedWriter

    def write(self, name: str, start: int, values: Raw) -> None:
        disk_name = self.merger.host.layout.disk_name(name)
        self.writer.write(disk_name, start * values.dtype.itemsize, values.view(np.uint8).data)


def _whole_kept(merger: Merger) -> Iterator[KeptBytes]:
    """Yield the tensors that are no part of the backbone."""
    for name in merger.host.other_names():
        place = merger.host.places[name]
        yield KeptBytes(name=name, place=place, start=0, stop=place.size_bytes)


def _kept_rows(merger: Merger) -> Iterator[KeptBytes]:
    """Yield the host's own rows of merged tensors."""
    for name, plan in merger.rows.items():
        place = merger.host.place(name)
        width = place.size_bytes // place.shape[0] if place.shape[0] else 0
        for rows in plan.kept(place.shape[0]):
            disk_name = merger.host.layout.disk_name(name)
            yield KeptBytes(name=disk_name, place=place, start=rows.start * width, stop=rows.stop * width)


def _write_new_rows(merger: Merger, writer: ShardedWriter) -> None:
    sink = _FileSink(merger, writer)
    for name, start, values in merger.new_rows():
        sink.write(name, start, values)


def _write_what_is_not_the_hosts(folder: Path, merger: Merger) -> None:
    result = merger.result
    if not result.is_hosts:
        text = json.dumps(result.config, ensure_ascii=False, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    if result.new_tokens:
        union_tokenizer(merger.host.folder, result.new_tokens, folder)
