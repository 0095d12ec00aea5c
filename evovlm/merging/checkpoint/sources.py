"""Opens a model folder for merging: config and tensor places are read, the tensors stay on disk until needed.

Of a model on the hub, the places can be read from the headers alone, without the weights.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evovlm.errors import BrokenCheckpoint, ModelError, PickledWeights, UnknownArchitecture
from evovlm.merging.checkpoint.safetensors_file import TensorPlace, hold_the_same, tensor_places
from evovlm.merging.models.tensor_names import EMBEDDING, HEAD, BackboneLayout, natural_order
from evovlm.recipes.checkpoint_files import INDEX_FILE, SINGLE_FILE, read_weight_map, refuse_odd_files, refuse_outside
from evovlm.recipes.hub import HubModel, fetch, has_weights, look_up, read_header
from evovlm.recipes.model_config import read_model_config
from evovlm.recipes.model_ref import ModelRef

if TYPE_CHECKING:
    import torch

PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")
"""safetensors' codes of the dtypes that merge."""
_CONNECTIONS = 8
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace(TensorPlace):
    """A tensor on the hub: `file` is the path that its weights would have in the cache; reading raises ModelError."""

    def read_into(self, target: memoryview | bytearray, *, start: int = 0) -> None:  # noqa: ARG002
        """Raise ModelError: the weights were not fetched."""
        raise ModelError(f"{self.file}: only its header was read; its weights are still on the hub. Fetch the model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder: its config.json, its backbone's layout, and where every tensor is (by name on disk)."""

    folder: Path
    config: Mapping[str, Any]
    layout: BackboneLayout
    places: Mapping[str, TensorPlace]

    @staticmethod
    def open(folder: Path) -> "Checkpoint":
        """Open a folder with config.json and model.safetensors (or shards with their index).

        Raises BrokenCheckpoint when a part is missing or unreadable, PickledWeights when there are only pickles,
        UnknownArchitecture when the model's family is unknown.
        """
        return Checkpoint._of(folder, _local_places)

    @staticmethod
    def open_headers(ref: ModelRef) -> "Checkpoint":
        """Open a model as `open` does without fetching weights: of a hub model only the headers are read.

        Tensors whose weights are not on this machine have a shape, a dtype and a size; reading one raises ModelError.
        Raises ModelNotFound when the model cannot be reached, and what `open` raises.
        """
        found = ref.find()
        if isinstance(found, Path):
            return Checkpoint.open(found)
        folder = fetch(found, wanted="headers")
        if has_weights(folder):
            return Checkpoint.open(folder)
        return Checkpoint._of(folder, lambda there: _remote_places(found, there))

    @staticmethod
    def _of(folder: Path, find_places: Callable[[Path], Mapping[str, TensorPlace]]) -> "Checkpoint":
        refuse_odd_files(folder)
        config = read_model_config(folder)
        places = find_places(folder)
        try:
            layout = BackboneLayout.from_config(config, places)
        except (UnknownArchitecture, BrokenCheckpoint) as error:
            raise type(error)(f"{folder}: {error}") from error
        head = places.get(layout.disk_name(HEAD))
        if layout.tied and head is not None and not _is_embedding(head, places[layout.disk_name(EMBEDDING)]):
            # Like transformers, which does not tie a head with weights of its own, whatever config.json says.
            layout = replace(layout, tied=False)
        checkpoint = Checkpoint(folder=folder, config=config, layout=layout, places=places)
        if not layout.tied and layout.disk_name(HEAD) not in places:
            raise BrokenCheckpoint(
                f"{folder}: {layout.disk_name(HEAD)} is missing, and config.json does not tie it to the embedding.\n"
                "    Set tie_word_embeddings: true in its config.json if it should be."
            )
        return checkpoint

    def backbone_names(self) -> tuple[str, ...]:
        """The backbone's tensors by their backbone names, in the model's order, without a tied head."""
        names = (self.layout.backbone_name_from_disk(name) for name in self.places)
        own = (name for name in names if name is not None and not (self.layout.tied and name == HEAD))
        return tuple(sorted(own, key=natural_order))

    def other_names(self) -> tuple[str, ...]:
        """The tensors outside the backbone, by their names on disk, sorted."""
        return tuple(sorted(name for name in self.places if self.layout.backbone_name_from_disk(name) is None))

    def place(self, backbone_name: str) -> TensorPlace:
        """Return where a backbone tensor is; the head of a tied model is its embedding.

        Raises KeyError when the checkpoint has no such tensor.
        """
        stored = EMBEDDING if backbone_name == HEAD and self.layout.tied else backbone_name
        return self.places[self.layout.disk_name(stored)]

    def has(self, backbone_name: str) -> bool:
        """Whether the checkpoint has this backbone tensor (a tied head counts)."""
        stored = EMBEDDING if backbone_name == HEAD and self.layout.tied else backbone_name
        return self.layout.disk_name(stored) in self.places

    def shape(self, backbone_name: str) -> tuple[int, ...]:
        """Return a backbone tensor's shape."""
        return self.place(backbone_name).shape

    def plain_place(self, backbone_name: str) -> TensorPlace:
        """Return where a tensor is; raises BrokenCheckpoint when it does not contain plain floats."""
        place = self.place(backbone_name)
        if place.dtype_code not in PLAIN_FLOATS:
            raise BrokenCheckpoint(
                f"{self.folder}: {backbone_name} is stored as {place.dtype_code}; merging needs plain floats.\n"
                "    Use the checkpoint before quantisation."
            )
        return place

    def read(self, backbone_name: str) -> "torch.Tensor":
        """Return a backbone tensor as stored."""
        return self.place(backbone_name).read()


def _is_embedding(head: TensorPlace, embedding: TensorPlace) -> bool:
    if isinstance(head, RemotePlace):
        # Its bytes are still on the hub: until they are fetched, config.json is trusted.
        return (head.dtype_code, head.shape) == (embedding.dtype_code, embedding.shape)
    return hold_the_same(head, embedding)


def _local_places(folder: Path) -> Mapping[str, TensorPlace]:
    if (folder / SINGLE_FILE).is_file():
        refuse_outside(folder / SINGLE_FILE, folder)
        return tensor_places(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise _no_weights(folder)
    weight_map = read_weight_map(folder / INDEX_FILE)
    absent = sorted({shard for shard in weight_map.values() if not (folder / shard).is_file()})
    if absent:
        raise BrokenCheckpoint(
            f"{folder}: {INDEX_FILE} names {', '.join(absent)}, which does not exist; fetch the model again."
        )
    for shard in sorted(set(weight_map.values())):
        refuse_outside(folder / shard, folder)
    shards = {shard: tensor_places(folder / shard) for shard in sorted(set(weight_map.values()))}
    return _places_by_index(weight_map, shards, where=str(folder))


def _remote_places(model: HubModel, folder: Path) -> Mapping[str, TensorPlace]:
    """Return the places of a hub model's tensors; `folder` holds its index, if it has one, and is in the cache.

    Raises ModelNotFound when the hub cannot be asked, BrokenCheckpoint when a file is broken.
    """
    listing = look_up(model)

    def places_of(file: str) -> Mapping[str, TensorPlace]:
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
        return places_of(SINGLE_FILE)
    weight_map = read_weight_map(folder / INDEX_FILE)
    shards = sorted(set(weight_map.values()))
    with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
        found = dict(zip(shards, pool.map(places_of, shards), strict=True))
    return _places_by_index(weight_map, found, where=str(model))


def _places_by_index(
    weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorPlace]], *, where: str
) -> Mapping[str, TensorPlace]:
    """Return the tensors that an index names, out of the shards; raises BrokenCheckpoint when a shard lacks one."""
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise BrokenCheckpoint(f"{where}: {shard} does not contain {name}, which {INDEX_FILE} lists.")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _no_weights(folder: Path) -> ModelError:
    if (folder / "adapter_config.json").is_file():
        return BrokenCheckpoint(
            f"{folder}: contains an adapter (LoRA), not a model.\n    Merge it into its base model first."
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles or any(folder.glob("*.bin.index.json")):
        named = ", ".join(pickles[:3]) or "*.bin"
        return PickledWeights(
            f"{folder}: its weights are pickles ({named}), which can run code when read; evovlm merges only "
            f"safetensors.\n    `evovlm convert {folder} --out DIR` reads nothing but tensors from them; "
            "name DIR instead."
        )
    return BrokenCheckpoint(
        f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}.\n    Name a folder with safetensors weights."
    )
