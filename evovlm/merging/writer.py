"""A merged model as an ordinary checkpoint folder: all of it appears at once, or nothing does."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import BrokenCheckpoint, OutputExists
from evovlm.merging.merge import Merger
from evovlm.merging.model_card import model_card
from evovlm.merging.safetensors_file import (
    PlannedTensor,
    TensorPlace,
    tensor_bytes,
    tensor_places,
    write_safetensors,
)
from evovlm.merging.sources import INDEX_FILE, SINGLE_FILE
from evovlm.merging.union_tokenizer import union_tokenizer
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.recipe import ParameterMerge

SHARD_BYTES = 5_000_000_000
RECIPE_FILE = "recipe.yaml"

# Config, tokenizer, processor and chat templates; no code, no weights, no traces of a training run.
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "additional_chat_templates")
_NOT_COPIED = ("*.index.json", "trainer_state.json", "adapter_config.json", "all_results.json", "train_results.json")


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
    recipe: ParameterMerge, out: Path, *, merger: Merger | None = None, shard_bytes: int = SHARD_BYTES
) -> WrittenCheckpoint:
    """Merge as the recipe says and write the result to the new folder `out`.

    Config, tokenizer, processor and unmerged tensors are the host's, byte for byte, but for what the recipe's
    `config_from` and `vocabulary: union` change in config and tokenizer; `recipe.yaml` and a model card are added. The
    work is done in a sibling folder, which a killed run leaves behind and the next one removes. `merger` spares opening
    the models again. Raises OutputExists when `out` exists, ModelError or ConfigError when the recipe cannot be merged.
    """
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise OutputExists(f"{out} exists already, and a merge overwrites nothing.\n    Name a new folder.")
    # Only shapes and differences of one tensor at a time are needed: nothing is worth keeping.
    merger = merger or Merger.open(recipe, cache_bytes=0)
    merger.check(recipe)
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    planned = _planned_tensors(recipe, merger)
    recipe_text = recipe_to_yaml(recipe, folder=out)
    try:
        _write_weights(partial, planned, shard_bytes=shard_bytes)
        _verify(partial, merger)
        _copy_files(merger.host.folder, partial)
        _write_what_is_not_the_hosts(partial, merger)
        (partial / RECIPE_FILE).write_text(recipe_text, encoding="utf-8")
        card = model_card(recipe, recipe_text=recipe_text, warnings=merger.warnings)
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    n_merged = len(merger.tensor_names)
    return WrittenCheckpoint(
        folder=out,
        recipe_id=recipe.recipe_id,
        n_merged=n_merged,
        n_copied=len(planned) - n_merged,
        size_bytes=sum(tensor.size_bytes for tensor in planned),
        warnings=merger.warnings,
    )


def _planned_tensors(recipe: ParameterMerge, merger: Merger) -> list[PlannedTensor]:
    host = merger.host

    def planned(disk_name: str, place: TensorPlace, backbone_name: str | None) -> PlannedTensor:
        def content() -> bytes | memoryview:
            if backbone_name is None:
                return place.read_bytes()
            return tensor_bytes(merger.merged_tensor(recipe, backbone_name))

        n_rows = merger.rows[backbone_name].n_rows if backbone_name is not None else None
        return PlannedTensor(
            name=disk_name,
            dtype_code=place.dtype_code,
            shape=place.shape if n_rows is None else (n_rows, *place.shape[1:]),
            size_bytes=place.size_bytes if n_rows is None else n_rows * _row_bytes(place),
            content=content,
        )

    merged = [planned(host.layout.disk_name(name), host.place(name), name) for name in merger.tensor_names]
    return [*merged, *(planned(name, host.places[name], None) for name in host.other_names())]


def _write_weights(folder: Path, tensors: Sequence[PlannedTensor], *, shard_bytes: int) -> None:
    shards = _sharded(tensors, shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / SINGLE_FILE, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file_name, shard)
        weight_map |= {tensor.name: file_name for tensor in shard}
    total = sum(tensor.size_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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


def _verify(folder: Path, merger: Merger) -> None:
    """Read the written weights again; raise BrokenCheckpoint unless what was not merged is the host's, to the byte."""
    host = merger.host
    written: Mapping[str, TensorPlace] = {
        name: place for file in sorted(folder.glob("*.safetensors")) for name, place in tensor_places(file).items()
    }
    for name in host.other_names():
        if written[name].read_bytes() != host.places[name].read_bytes():
            raise BrokenCheckpoint(f"{folder}: {name} was written differently from the host's; check the disk.")
    for name, plan in merger.rows.items():
        place = host.place(name)
        kept = plan.kept(place.shape[0])
        if not kept:
            continue
        found, own, width = written[host.layout.disk_name(name)].read_bytes(), place.read_bytes(), _row_bytes(place)
        if any(found[r.start * width : r.stop * width] != own[r.start * width : r.stop * width] for r in kept):
            raise BrokenCheckpoint(f"{folder}: rows of {name} that are the host's were written differently.")


def _row_bytes(place: TensorPlace) -> int:
    return place.size_bytes // place.shape[0] if place.shape[0] else 0


def _write_what_is_not_the_hosts(folder: Path, merger: Merger) -> None:
    result = merger.result
    if not result.is_hosts:
        text = json.dumps(result.config, ensure_ascii=False, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    if result.new_tokens:
        union_tokenizer(merger.host.folder, result.new_tokens, folder)


def _copy_files(host: Path, folder: Path) -> None:
    for path in sorted({found for pattern in _COPIED for found in host.glob(pattern)}):
        if any(path.match(pattern) for pattern in _NOT_COPIED):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            # copyfile follows links: the hub's cache holds nothing else.
            shutil.copyfile(path, folder / path.name)
