"""Writes a LLaVA-NeXT as a LLaVA, which sees one view of each picture instead of tiles, as the paper's LLaVA-1.6 did.

The two differ in config, processor and one tensor, `image_newline`, that only tiles need; all other tensors stay the
same. One view of 336 x 336 pixels is 576 image tokens.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evovlm.errors import BrokenCheckpoint
from evovlm.files import explained, new_folder, refuse_existing
from evovlm.foreign_json import JsonObject, read_json
from evovlm.merging.checkpoint.conversion import ConvertedCheckpoint
from evovlm.merging.checkpoint.safetensors_file import TensorPlace, tensor_places
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor, SafetensorsWriter
from evovlm.recipes.checkpoint_files import (
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    copy_files,
    find_support_files,
    read_weight_map,
    refuse_outside,
)
from evovlm.recipes.model_ref import ModelRef

_TILED, _SINGLE = "llava_next", "llava"
_ONLY_FOR_TILES = ("image_grid_pinpoints", "use_image_newline_parameter")
_NEWLINE = re.compile(r"(?:model\.)?image_newline")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_CHUNK_BYTES = 64_000_000


def write_single_view(ref: ModelRef, out: Path) -> ConvertedCheckpoint:
    """Write the LLaVA-NeXT `ref` as a LLaVA to the new folder `out`, shard by shard; a hub's model is fetched for this.

    The folder appears once it is complete, or not at all. Raises OutputExists when `out` exists, BrokenCheckpoint for
    another kind of model or one without safetensors, OutputError when `out` cannot be written.
    """
    out = out.absolute()
    refuse_existing(out)
    folder = ref.resolve()
    config = _config(folder)
    shards = _shards(folder)
    support = find_support_files(folder)
    with new_folder(out) as partial, explained(out):
        copy_files(support.files, partial)
        _write_json(partial / CONFIG_FILE, config)
        for name in _PROCESSOR_FILES:
            if name in support.files:
                _write_json(partial / name, _processor(dict(JsonObject.of(read_json(partial / name)).values)))
        weight_map: dict[str, str] = {}
        for shard in shards:
            places = {name: place for name, place in tensor_places(folder / shard).items() if not _is_newline(name)}
            _copy_tensors(places, partial / shard)
            weight_map |= dict.fromkeys(places, shard)
        size_bytes = sum((partial / shard).stat().st_size for shard in shards)
        if len(shards) > 1:
            index = {"metadata": {"total_size": size_bytes}, "weight_map": dict(sorted(weight_map.items()))}
            _write_json(partial / INDEX_FILE, index)
    return ConvertedCheckpoint(
        folder=out, files=tuple(shards), n_tensors=len(weight_map), size_bytes=size_bytes, notes=support.notes
    )


def _config(folder: Path) -> dict[str, Any]:
    """Return the config of the LLaVA. Raises BrokenCheckpoint for another kind of model."""
    file = folder / CONFIG_FILE
    try:
        config = dict(JsonObject.of(read_json(file)).values)
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{file}: cannot be read ({error}). Name the folder of a LLaVA-NeXT.") from error
    if config.get("model_type") != _TILED:
        raise BrokenCheckpoint(
            f"{folder}: is a model of the type {config.get('model_type')!r:.60}, and --single-view needs one of the "
            f"type {_TILED} (LLaVA-1.6).\n    Leave out --single-view, or name such a model."
        )
    vision = config.get("vision_config")
    sizes = [vision.get(key) for key in ("image_size", "patch_size")] if isinstance(vision, dict) else [None, None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise BrokenCheckpoint(f"{file}: vision_config lacks image_size or patch_size. Complete it.")
    image, patch = (int(size) for size in sizes if isinstance(size, int))
    kept = {key: value for key, value in config.items() if key not in _ONLY_FOR_TILES}
    single = {"architectures": ["LlavaForConditionalGeneration"], "model_type": _SINGLE}
    return {**kept, **single, "image_seq_length": (image // patch) ** 2}


def _processor(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a processor or tokenizer, also nested ones, for one view."""
    found = {key: value for key, value in settings.items() if key not in _ONLY_FOR_TILES}
    for key, value in found.items():
        if isinstance(value, dict):
            found[key] = _processor(value)
        elif isinstance(value, str) and key == "processor_class":
            found[key] = value.replace("LlavaNext", "Llava")
        elif isinstance(value, str) and key == "image_processor_type":
            found[key] = re.sub(r"^LlavaNextImageProcessor", "CLIPImageProcessor", value)
    if found.get("vision_feature_select_strategy") == "default":
        # The class token, which the strategy takes off again.
        found.setdefault("num_additional_image_tokens", 1)
    return found


def _shards(folder: Path) -> list[str]:
    if (folder / SINGLE_FILE).is_file():
        shards = [SINGLE_FILE]
    elif (folder / INDEX_FILE).is_file():
        shards = sorted(set(read_weight_map(folder / INDEX_FILE).values()))
    else:
        raise BrokenCheckpoint(
            f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}. Convert its pickles first, without --single-view."
        )
    for shard in shards:
        refuse_outside(folder / shard, folder)
        if not (folder / shard).is_file():
            raise BrokenCheckpoint(
                f"{folder}: {INDEX_FILE} names {shard}, which does not exist. Fetch the model again."
            )
    return shards


def _copy_tensors(places: Mapping[str, TensorPlace], file: Path) -> None:
    planned = [
        PlannedTensor(name=name, dtype_code=place.dtype_code, shape=place.shape) for name, place in places.items()
    ]
    with SafetensorsWriter.create(file, planned) as writer:
        for name, place in places.items():
            for start in range(0, place.size_bytes, _CHUNK_BYTES):
                chunk = bytearray(min(_CHUNK_BYTES, place.size_bytes - start))
                place.read_into(chunk, start=start)
                writer.write(name, start, chunk)


def _is_newline(name: str) -> bool:
    return _NEWLINE.fullmatch(name) is not None


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
