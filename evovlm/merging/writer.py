"""Writes a merged model as an ordinary checkpoint folder, which appears complete or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from evovlm.errors import ModelError, OutputExists
from evovlm.files import check_space, explained, new_folder
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor
from evovlm.merging.checkpoint.shards import KeptBytes, ShardedWriter, WriteObserver, check_kept, copy_kept, open_shards
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.model_card import model_card
from evovlm.merging.parameter_content import ParameterContent
from evovlm.merging.paths.content import PathContent
from evovlm.merging.paths.plan import PathPlan
from evovlm.recipes.checkpoint_files import CARD_FILE, RECIPE_FILE, copy_files
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_ref import ModelRef, all_parts
from evovlm.recipes.writing import recipe_to_yaml

SHARD_BYTES = 5_000_000_000
# Headers, the recipe, the model card, and the file system's own data.
_SPARE_BYTES = 1 << 20
_FIRST_STAGE = "first-stage"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCheckpoint:
    """What was written: `n_merged` and `n_copied` tensors, `size_bytes` of weights, and the merger's warnings."""

    folder: Path
    recipe_id: str
    n_merged: int
    n_copied: int
    size_bytes: int
    warnings: tuple[str, ...]


class Content(Protocol):
    """The content of a folder besides recipe and card: the host's files, and tensors that are made or copied."""

    @property
    def host(self) -> Checkpoint: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    def made(self) -> list[PlannedTensor]: ...
    def copied(self) -> list[PlannedTensor]: ...
    def kept(self) -> list[KeptBytes]: ...
    def write(self, writer: ShardedWriter) -> None: ...
    def write_files(self, folder: Path) -> None: ...


def write_checkpoint(
    recipe: Recipe,
    out: Path,
    *,
    merger: Merger | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    allow_non_finite: bool = False,
    check: Callable[[Checkpoint], None] | None = None,
    observer: WriteObserver | None = None,
) -> WrittenCheckpoint:
    """Merge as the recipe says and write the result to the folder `out`, new or (with `overwrite`) in place of a model.

    Config, tokenizer, processor and unmerged tensors are the host's, byte for byte (checked after writing), except for
    what the recipe changes in config and tokenizer (`config_from`, `vocabulary: union`, the blocks of a path);
    `recipe.yaml` and a model card are added. The work is done in a sibling folder, which a killed process leaves behind
    and the next one removes; it also holds the first stage of a hybrid until the second is written.
    `check` looks at the complete folder before it gets its name; when it raises a ModelError, nothing is left.
    `merger` saves opening the models of a merge in parameter space again, and has its own `allow_non_finite`.
    Raises OutputExists when `out` exists and may not be replaced, OutputError when it cannot be written, ModelError or
    ConfigError when the recipe cannot be merged.
    """
    out = out.absolute()
    if overwrite:
        _refuse_inputs(recipe, out)
    with (
        new_folder(out, overwrite=overwrite) as partial,
        _content(recipe, partial, merger=merger, allow_non_finite=allow_non_finite, observer=observer) as content,
    ):
        made, copied, kept = content.made(), content.copied(), content.kept()
        size_bytes = sum(tensor.size_bytes for tensor in (*made, *copied))
        taken = content.host.support_files()
        beside = sum(file.stat().st_size for file in taken.files.values())
        recipe_text = recipe_to_yaml(recipe, folder=out)
        with explained(out):
            check_space(out, partial, needed_bytes=size_bytes + beside + _SPARE_BYTES)
            with open_shards(partial, [*made, *copied], shard_bytes=shard_bytes, observer=observer) as writer:
                copy_kept(kept, writer)
                content.write(writer)
            check_kept(partial, kept)
            copy_files(taken.files, partial)
            content.write_files(partial)
            (partial / RECIPE_FILE).write_text(recipe_text, encoding="utf-8")
            card = model_card(recipe, recipe_text=recipe_text, warnings=content.warnings)
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
        if check is not None:
            _check_result(check, partial, out=out, host=content.host)
    return WrittenCheckpoint(
        folder=out,
        recipe_id=recipe.recipe_id,
        n_merged=len(made),
        n_copied=len(copied),
        size_bytes=size_bytes,
        warnings=(*content.warnings, *taken.notes),
    )


def _check_result(check: Callable[[Checkpoint], None], partial: Path, *, out: Path, host: Checkpoint) -> None:
    try:
        check(Checkpoint.open(partial, declared=host.declared))
    except ModelError as error:
        reason = str(error).replace(str(partial), str(out))
        raise type(error)(
            f"{out}: the result does not load, and nothing was written. Its config is that of the host {host.folder}.\n"
            f"    {reason}"
        ) from error


@contextmanager
def _content(
    recipe: Recipe, partial: Path, *, merger: Merger | None, allow_non_finite: bool, observer: WriteObserver | None
) -> Iterator[Content]:
    """Yield what the recipe makes; the first stage of a hybrid is in the folder `partial` meanwhile."""
    if recipe.path is None:
        merger = merger or Merger.open(recipe, allow_non_finite=allow_non_finite)
        merger.check(recipe)
        yield ParameterContent(merger, recipe)
    elif recipe.first_stage is None:
        yield PathContent(plan=PathPlan.open(recipe), allow_non_finite=allow_non_finite)
    else:
        first = partial / _FIRST_STAGE
        try:
            stage = write_checkpoint(recipe.ps, first, allow_non_finite=allow_non_finite, observer=observer)
            plan = PathPlan.open(recipe.path_merge(ModelRef(text=str(first))))
            warnings = tuple(dict.fromkeys((*stage.warnings, *plan.warnings)))
            yield PathContent(plan=replace(plan, warnings=warnings), allow_non_finite=allow_non_finite)
        finally:
            shutil.rmtree(first, ignore_errors=True)


def _refuse_inputs(recipe: Recipe, out: Path) -> None:
    """Raise OutputExists when a model of the recipe is in the folder to be replaced."""
    if not out.is_dir():
        return
    replaced = out.resolve()
    for part in (part for ref in recipe.models().values() for part in all_parts(ref)):
        folder = part.folder_at_hand()
        if folder is not None and folder.resolve().is_relative_to(replaced):
            raise OutputExists(
                f"{out} contains '{part.text}', which this recipe merges, and is not replaced.\n"
                "    Name another folder."
            )
