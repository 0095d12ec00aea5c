"""The dtype of a checkpoint's weights, read from the headers of its safetensors files."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from evovlm.errors import BrokenCheckpoint
from evovlm.files import leads_outside
from evovlm.recipes.checkpoint_files import INDEX_FILE, SINGLE_FILE, read_weight_map

_NAMES: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000


def float_dtype(folder: Path) -> str | None:
    """Return the name of the dtype that most of a checkpoint's floats have, by their bytes.

    None where the folder does not hold readable headers: opening the checkpoint reports what is wrong with them.
    """
    files = [folder / SINGLE_FILE]
    try:
        if not files[0].is_file():
            files = [folder / shard for shard in sorted(set(read_weight_map(folder / INDEX_FILE).values()))]
        sizes: Counter[str] = Counter()
        for file in files:
            sizes.update(_float_bytes(file, folder))
    except (BrokenCheckpoint, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return _NAMES[sizes.most_common(1)[0][0]] if sizes else None


def _float_bytes(file: Path, folder: Path) -> Counter[str]:
    if leads_outside(file, folder) or not file.is_file():
        raise OSError(f"{file} is not a file of the folder")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(min(length, _LARGEST_HEADER)))
    entries = [entry for name, entry in header.items() if name != "__metadata__" and entry["dtype"] in _NAMES]
    found: Counter[str] = Counter()
    for entry in entries:
        start, stop = entry["data_offsets"]
        found[entry["dtype"]] += stop - start
    return found
