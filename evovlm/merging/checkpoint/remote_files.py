"""Where the tensors of a hub model lie, known from its headers alone: its weights stay on the hub."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import BrokenCheckpoint, ModelError
from evovlm.merging.checkpoint.safetensors_file import TensorPlace
from evovlm.recipes.checkpoint_files import INDEX_FILE, SINGLE_FILE, read_weight_map
from evovlm.recipes.hub import HubModel, look_up, read_header

_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace(TensorPlace):
    """A tensor on the hub: `file` is where its weights would be in the cache; reading it raises ModelError."""

    def read_into(self, target: memoryview | bytearray, *, start: int = 0) -> None:  # noqa: ARG002
        """Raise ModelError: the weights were not fetched."""
        raise ModelError(f"{self.file}: only its header was read, its weights are still on the hub. Resolve the model.")


def remote_places(model: HubModel, folder: Path) -> Mapping[str, TensorPlace]:
    """Return the places of a hub model's tensors; `folder` holds its index, if it has one, and is the cache's.

    Raises ModelNotFound when the hub cannot be asked, BrokenCheckpoint when a file is not what it must be.
    """
    listing = look_up(model)

    def places(file: str) -> Mapping[str, TensorPlace]:
        header = read_header(model, file, commit=listing.commit)
        return {
            name: RemotePlace(
                file=folder / file,
                name=name,
                dtype_code=entry.dtype_code,
                shape=entry.shape,
                start=entry.start,
                stop=entry.stop,
            )
            for name, entry in header.items()
        }

    if SINGLE_FILE in listing.size_bytes:
        return places(SINGLE_FILE)
    weight_map = read_weight_map(folder / INDEX_FILE)
    shards = sorted(set(weight_map.values()))
    with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
        found = dict(zip(shards, pool.map(places, shards), strict=True))
    return places_by_index(weight_map, found, where=str(model))


def places_by_index(
    weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorPlace]], *, where: str
) -> Mapping[str, TensorPlace]:
    """Return the tensors that an index names, out of the shards; raises BrokenCheckpoint when a shard lacks one."""
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise BrokenCheckpoint(f"{where}: {name} is not in {shard}, though {INDEX_FILE} says so.")
    return {name: shards[shard][name] for name, shard in weight_map.items()}
