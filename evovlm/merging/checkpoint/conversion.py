"""Rewrites pickled checkpoints (*.bin) as safetensors; only this module reads pickles.

torch.load(weights_only=True) builds only tensors and plain containers; a pickle that asks for more is refused. Dtypes,
shapes and bytes stay the same; the files beside the weights are copied.
"""

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from evovlm.errors import BrokenCheckpoint, PickledWeights, first_line
from evovlm.files import explained, new_folder, refuse_existing
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS, METADATA, torch_dtype
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor, SafetensorsWriter
from evovlm.recipes.checkpoint_files import (
    INDEX_FILE,
    PICKLE_INDEX,
    SINGLE_FILE,
    SINGLE_PICKLE,
    copy_files,
    find_support_files,
    read_weight_map,
    refuse_outside,
)
from evovlm.recipes.hub import HubModel, fetch, has_weights
from evovlm.recipes.model_ref import ModelRef

_CODES: Mapping[torch.dtype, str] = {dtype: code for code in ITEM_BITS if (dtype := torch_dtype(code)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedCheckpoint:
    """What was written: the folder, its weight files, the number and bytes of the tensors, and notes for the user."""

    folder: Path
    files: tuple[str, ...]
    n_tensors: int
    size_bytes: int
    notes: tuple[str, ...]


def convert_checkpoint(ref: ModelRef, out: Path) -> ConvertedCheckpoint:
    """Write the pickled model `ref` as safetensors to the new folder `out`, shard by shard.

    A hub model's *.bin files are fetched for this. The folder appears once it is complete, or not at all. Raises
    OutputExists when `out` exists, ModelNotFound when the model cannot be reached, BrokenCheckpoint when it has no
    pickled weights or they lack something, PickledWeights when they contain more than tensors, OutputError when `out`
    cannot be written.
    """
    out = out.absolute()
    refuse_existing(out)
    found = ref.find()
    folder = fetch(found, wanted="pickles") if isinstance(found, HubModel) else found
    shards, support = _shards(folder), find_support_files(folder)
    for shard in shards:
        refuse_outside(folder / shard, folder)
    with new_folder(out) as partial, explained(out):
        converted = _write_shards(folder, shards, partial)
        copy_files(support.files, partial)
    return ConvertedCheckpoint(
        folder=out,
        files=tuple(sorted(set(converted.weight_map.values()))),
        n_tensors=len(converted.weight_map),
        size_bytes=converted.size_bytes,
        notes=support.notes,
    )


@dataclass(slots=True, kw_only=True)
class _Written:
    weight_map: dict[str, str]
    size_bytes: int = 0


def _shards(folder: Path) -> Mapping[str, Sequence[str] | None]:
    """Return the pickled files with the tensors that the index puts there (None: all)."""
    if (folder / SINGLE_PICKLE).is_file():
        return {SINGLE_PICKLE: None}
    if not (folder / PICKLE_INDEX).is_file():
        hint = "Its weights are safetensors already" if has_weights(folder) else "Name the folder of a model"
        raise BrokenCheckpoint(f"{folder}: has neither {SINGLE_PICKLE} nor {PICKLE_INDEX}. {hint}.")
    shards: dict[str, list[str]] = {}
    for name, shard in read_weight_map(folder / PICKLE_INDEX).items():
        shards.setdefault(shard, []).append(name)
    absent = sorted(shard for shard in shards if not (folder / shard).is_file())
    if absent:
        raise BrokenCheckpoint(
            f"{folder}: {PICKLE_INDEX} names {', '.join(absent)}, which does not exist; fetch the model again."
        )
    return dict(sorted(shards.items()))


def _write_shards(folder: Path, shards: Mapping[str, Sequence[str] | None], partial: Path) -> _Written:
    written = _Written(weight_map={})
    single = len(shards) == 1
    for number, (shard, names) in enumerate(shards.items(), start=1):
        tensors = _load(folder / shard)
        _check_complete(folder, shard, tensors, shards)
        # Every name is written with its own bytes, also where tensors share memory: each reads the same.
        planned = [_planned(folder / shard, name, tensors[name]) for name in (names or tensors)]
        file = SINGLE_FILE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with SafetensorsWriter.create(partial / file, planned) as writer:
            for tensor in planned:
                writer.write(tensor.name, 0, _bytes(tensors[tensor.name]))
        written.weight_map |= dict.fromkeys((tensor.name for tensor in planned), file)
        written.size_bytes += sum(tensor.size_bytes for tensor in planned)
    if not single:
        index = {
            "metadata": {"total_size": written.size_bytes},
            "weight_map": dict(sorted(written.weight_map.items())),
        }
        (partial / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return written


def _check_complete(
    folder: Path, shard: str, tensors: Mapping[str, torch.Tensor], shards: Mapping[str, Sequence[str] | None]
) -> None:
    """Raise BrokenCheckpoint unless a pickled file contains exactly the tensors that the index lists."""
    file, named = folder / shard, shards[shard] or ()
    lacking = sorted(set(named) - set(tensors))
    if lacking:
        raise BrokenCheckpoint(f"{file}: does not contain {lacking[0]}, which {PICKLE_INDEX} lists.")
    if not tensors:
        raise BrokenCheckpoint(f"{file}: contains no tensors. Fetch it again.")
    unnamed = sorted(set(tensors).difference(*(names or tensors for names in shards.values())))
    if unnamed:
        raise BrokenCheckpoint(
            f"{file}: {PICKLE_INDEX} does not list {unnamed[0]}, which would be left out.\n    Fetch the index again."
        )


def _load(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        # Mapped, a shard takes no extra memory; the format from before torch 1.6 cannot be mapped.
        with warnings.catch_warnings():
            # Unusual tensors are reported as errors below.
            warnings.simplefilter("ignore", UserWarning)
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        raise PickledWeights(
            f"{file}: contains more than tensors, and loading it could run code; nothing was run "
            f"({first_line(error)}).\n    Ask its authors for safetensors; do not load it in any other way unless you "
            "trust them with this machine."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BrokenCheckpoint(
            f"{file}: cannot be read as a torch file ({first_line(error)}).\n    Fetch it again."
        ) from error
    if not isinstance(found, Mapping):
        raise BrokenCheckpoint(f"{file}: contains a {type(found).__name__}, not tensors by name.")
    for name, value in found.items():
        if not _is_name(name):
            raise BrokenCheckpoint(
                f"{file}: {name!r} cannot be a tensor's name in safetensors, and no tensor is dropped or renamed.\n"
                "    Save the checkpoint again with names as transformers gives them."
            )
        if not isinstance(value, torch.Tensor):
            raise BrokenCheckpoint(
                f"{file}: {name} is a {type(value).__name__}, not a tensor.\n"
                "    evovlm converts plain state dicts, as transformers saves them."
            )
    return dict(found)


def _is_name(name: object) -> bool:
    """Whether a safetensors file can contain a tensor of this name."""
    if not isinstance(name, str) or name == METADATA:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _planned(file: Path, name: str, tensor: torch.Tensor) -> PlannedTensor:
    if tensor.dtype not in _CODES or tensor.layout != torch.strided or tensor.is_quantized:
        raise BrokenCheckpoint(f"{file}: {name} is {tensor.dtype} ({tensor.layout}), which safetensors cannot hold.")
    size_bytes = tensor.numel() * tensor.element_size()
    if size_bytes > tensor.untyped_storage().nbytes():
        # A few bytes that claim to be a tensor of terabytes would fill the disk.
        raise BrokenCheckpoint(f"{file}: {name} claims {size_bytes} bytes but stores fewer. Get an intact file.")
    return PlannedTensor(
        name=name,
        dtype_code=_CODES[tensor.dtype],
        shape=tuple(tensor.shape),
    )


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
