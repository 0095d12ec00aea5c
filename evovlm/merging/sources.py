"""A model folder opened for merging: config and tensor places are read, the tensors stay on disk until asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evovlm.errors import BrokenCheckpoint, ModelError, PickledWeights, UnknownArchitecture
from evovlm.merging.safetensors_file import TensorPlace, hold_the_same, tensor_places
from evovlm.merging.tensor_names import EMBEDDING, HEAD, BackboneLayout, natural_order

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model folder: its config.json, its backbone's layout, and where every tensor lies (by name on disk)."""

    folder: Path
    config: Mapping[str, Any]
    layout: BackboneLayout
    places: Mapping[str, TensorPlace]

    @staticmethod
    def open(folder: Path) -> "Checkpoint":
        """Open a folder with config.json and model.safetensors (or shards with their index).

        Raises BrokenCheckpoint when a part is missing or unreadable, PickledWeights when there are only pickles,
        UnknownArchitecture when no family describes the model.
        """
        config = _read_json(folder / "config.json")
        places = _all_places(folder)
        try:
            layout = BackboneLayout.from_config(config, places)
        except (UnknownArchitecture, BrokenCheckpoint) as error:
            raise type(error)(f"{folder}: {error}") from error
        head = places.get(layout.disk_name(HEAD))
        if layout.tied and head is not None and not hold_the_same(head, places[layout.disk_name(EMBEDDING)]):
            # Like transformers, which ties no head that came with numbers of its own, whatever config.json says.
            layout = replace(layout, tied=False)
        checkpoint = Checkpoint(folder=folder, config=config, layout=layout, places=places)
        if not layout.tied and layout.disk_name(HEAD) not in places:
            raise BrokenCheckpoint(
                f"{folder}: {layout.disk_name(HEAD)} is missing, and config.json does not tie it to the embedding.\n"
                "    Set tie_word_embeddings: true in its config.json if it should be."
            )
        return checkpoint

    def backbone_names(self) -> tuple[str, ...]:
        """The backbone's tensors by their backbone names, in the model's order; a tied head is not among them."""
        names = (self.layout.backbone_name_from_disk(name) for name in self.places)
        own = (name for name in names if name is not None and not (self.layout.tied and name == HEAD))
        return tuple(sorted(own, key=natural_order))

    def other_names(self) -> tuple[str, ...]:
        """The tensors that are no part of the backbone, by their names on disk, sorted."""
        return tuple(sorted(name for name in self.places if self.layout.backbone_name_from_disk(name) is None))

    def place(self, backbone_name: str) -> TensorPlace:
        """Return where a backbone tensor lies; the head of a tied model lies where its embedding does.

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

    def read(self, backbone_name: str) -> "torch.Tensor":
        """Return a backbone tensor as stored."""
        return self.place(backbone_name).read()


def _read_json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise BrokenCheckpoint(f"{file.parent}: there is no {file.name}; a model folder has config.json and weights.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{file}: cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BrokenCheckpoint(f"{file}: should hold a JSON object.")
    return found


def _all_places(folder: Path) -> Mapping[str, TensorPlace]:
    if (folder / SINGLE_FILE).is_file():
        return tensor_places(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise _no_weights(folder)
    weight_map = _read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BrokenCheckpoint(f"{folder / INDEX_FILE}: has no weight_map.")
    absent = sorted({str(shard) for shard in weight_map.values() if not (folder / str(shard)).is_file()})
    if absent:
        raise BrokenCheckpoint(f"{folder}: {INDEX_FILE} names {', '.join(absent)}, which is not there; fetch it again.")
    shards = {shard: tensor_places(folder / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise BrokenCheckpoint(f"{folder / shard}: {name} is not in it, though {INDEX_FILE} says so.")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _no_weights(folder: Path) -> ModelError:
    if (folder / "adapter_config.json").is_file():
        return BrokenCheckpoint(
            f"{folder}: holds an adapter (LoRA), not a model.\n    Merge it into its base model first."
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles or any(folder.glob("*.bin.index.json")):
        named = ", ".join(pickles[:3]) or "*.bin"
        return PickledWeights(
            f"{folder}: its weights are pickles ({named}), which can run code when read; evovlm reads only safetensors."
            "\n    Convert a model you trust: load it with transformers (from_pretrained) and save it "
            "(save_pretrained), or ask for its safetensors revision on the hub."
        )
    return BrokenCheckpoint(
        f"{folder}: there is neither {SINGLE_FILE} nor {INDEX_FILE}.\n    Name a folder with safetensors weights."
    )
