"""Opens a model folder for merging: config and tensor places are read, the tensors stay on disk until needed.

Of a model on the hub, the places can be read from the headers alone, without the weights.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evovlm.errors import BrokenCheckpoint, ModelError, UnknownArchitecture
from evovlm.merging.checkpoint.adapters import Adapter
from evovlm.merging.checkpoint.computed import CastPlace, ComputedPlace, LowRank
from evovlm.merging.checkpoint.quantised import plain_weights
from evovlm.merging.checkpoint.safetensors_file import (
    DTYPE_CODES,
    PLAIN_FLOATS,
    TensorPlace,
    hold_the_same,
    tensor_places,
)
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.tensor_names import BackboneLayout, natural_order
from evovlm.recipes.checkpoint_files import (
    ADAPTER_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    TOKENIZER_FILES,
    SupportFiles,
    host_files,
    read_weight_map,
    refuse_odd_files,
    refuse_outside,
    tokenizer_files,
)
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.hub import HubModel, fetch, has_weights, is_adapter_on_hub, look_up, read_header
from evovlm.recipes.language_config import language_config, language_path
from evovlm.recipes.missing_weights import missing_weights
from evovlm.recipes.model_config import read_model_config
from evovlm.recipes.model_ref import ModelRef, stored_dtype, with_adapter
from evovlm.resources import garbage_kept

if TYPE_CHECKING:
    import torch

_CONNECTIONS = 8
_DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePlace(TensorPlace):
    """A tensor on the hub: `file` is the path that its weights would have in the cache; reading raises ModelError."""

    def read_into(self, target: memoryview | bytearray, *, start: int = 0) -> None:  # noqa: ARG002
        """Raise ModelError: the weights were not fetched."""
        raise ModelError(f"{self.file}: only its header was read; its weights are still on the hub. Fetch the model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model: its config.json, its backbone's layout, and where every tensor is (by name on disk).

    `folder` contains config and tokenizer; `adapter` is the folder of an adapter whose changes are in `places`, None
    without one. `config` is that of the tensors: it differs from the file (`has_own_config`) where those are read as
    something else than what is stored. `notes` say what.
    """

    folder: Path
    config: Mapping[str, Any]
    layout: BackboneLayout
    places: Mapping[str, TensorPlace]
    has_own_config: bool = False
    adapter: Path | None = None
    declared: BackbonePrefixes | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def open(folder: Path, *, declared: BackbonePrefixes | None = None) -> "Checkpoint":
        """Open a folder with config.json and model.safetensors (or shards with their index).

        `declared` says where its language model is, if it has tensors there; otherwise its tensors and config.json say.

        Raises BrokenCheckpoint when a part is missing or unreadable, PickledWeights when there are only pickles,
        UnknownArchitecture when its tensors do not show where the language model is.
        """
        return Checkpoint._of_folder(folder, _local_places, declared=declared)

    @staticmethod
    def open_model(ref: ModelRef, *, declared: BackbonePrefixes | None = None) -> "Checkpoint":
        """Open the model that a reference names, with its adapter; of a hub model, the weights are fetched first.

        Raises what `open` raises, ModelNotFound when the model cannot be reached, IncompatibleModels for an adapter
        that does not fit.
        """
        return Checkpoint._of_ref(ref, lambda part: Checkpoint.open(part.resolve(), declared=declared), _adapter_places)

    @staticmethod
    def open_headers(ref: ModelRef, *, declared: BackbonePrefixes | None = None) -> "Checkpoint":
        """Open a model as `open_model` does without fetching weights: of a hub model only the headers are read.

        Tensors whose weights are not on this machine have a shape, a dtype and a size; reading one raises ModelError.
        """
        return Checkpoint._of_ref(ref, partial(_open_headers, declared=declared), _adapter_headers)

    @staticmethod
    def _of_ref(
        ref: ModelRef,
        open_part: "Callable[[ModelRef], Checkpoint]",
        read_adapter: Callable[[ModelRef], tuple[Path, Mapping[str, TensorPlace]]],
    ) -> "Checkpoint":
        model, adapter = find_adapter(ref)
        if adapter is None:
            return open_part(model)
        folder, places = read_adapter(adapter)
        return open_part(model).adapted(Adapter.read(folder, places))

    @staticmethod
    @garbage_kept()
    def _of_folder(
        folder: Path,
        find_places: Callable[[Path], Mapping[str, TensorPlace]],
        *,
        declared: BackbonePrefixes | None = None,
    ) -> "Checkpoint":
        refuse_odd_files(folder)
        config = read_model_config(folder)
        plain = plain_weights(folder, config, find_places(folder))
        changed = plain.config is not config
        return Checkpoint._of(
            folder, plain.config, plain.places, has_own_config=changed, declared=declared, notes=plain.notes
        )

    @staticmethod
    def _of(
        folder: Path,
        config: Mapping[str, Any],
        places: Mapping[str, TensorPlace],
        *,
        has_own_config: bool,
        adapter: Path | None = None,
        declared: BackbonePrefixes | None = None,
        notes: tuple[str, ...] = (),
    ) -> "Checkpoint":
        if declared is not None and not declared.is_in(places):
            declared = None
        try:
            layout = BackboneLayout.from_config(config, places, declared=declared)
        except (UnknownArchitecture, BrokenCheckpoint) as error:
            raise type(error)(f"{folder}: {error}") from error
        head = places.get(layout.names.get(HEAD, ""))
        if layout.tied and head is not None and not _is_embedding(head, places[layout.names[EMBEDDING]]):
            # Like transformers, which does not tie a head with weights of its own, whatever config.json says.
            layout = replace(layout, tied=False)
        checkpoint = Checkpoint(
            folder=folder,
            config=config,
            layout=layout,
            places=places,
            has_own_config=has_own_config,
            adapter=adapter,
            declared=declared,
            notes=notes,
        )
        if not layout.tied and HEAD not in layout.names:
            raise BrokenCheckpoint(
                f"{folder}: {layout.disk_name(HEAD)} is missing, and config.json does not tie it to the embedding.\n"
                "    Set tie_word_embeddings: true in its config.json if it should be."
            )
        return checkpoint

    def adapted(self, adapter: Adapter) -> "Checkpoint":
        """Return the model with an adapter's changes. Raises IncompatibleModels when the adapter does not fit."""
        embedding, head = self.layout.disk_name(EMBEDDING), self.layout.disk_name(HEAD)
        tied_head = head if self.layout.tied and head not in self.places else None
        places = adapter.apply_to(self.places, where=str(self.folder), embedding=embedding, tied_head=tied_head)
        config, n_rows = self.config, places[embedding].shape[0]
        if n_rows != self.places[embedding].shape[0]:
            # Tokens were added in the training.
            config = _with_text_setting(config, "vocab_size", n_rows)
        if tied_head is not None and tied_head in places and not _is_embedding(places[tied_head], places[embedding]):
            config = _with_text_setting(config, "tie_word_embeddings", False)
        return Checkpoint._of(
            self.folder,
            config,
            places,
            has_own_config=self.has_own_config or config is not self.config,
            adapter=adapter.folder,
            declared=self.declared,
            notes=self.notes,
        )

    def cast_to(self, dtype: str) -> "Checkpoint":
        """Return the model with all its floats in a dtype ("bfloat16"), which its config then names too."""
        code = DTYPE_CODES[dtype]
        places = {
            name: CastPlace.of(place, code) if place.dtype_code in PLAIN_FLOATS else place
            for name, place in self.places.items()
        }
        if stored_dtype(self.config) in (None, dtype) and all(
            places[name] is place for name, place in self.places.items()
        ):
            return self
        config = _with_dtype(self.config, dtype)
        if stored_dtype(config) is None:
            config["dtype"] = dtype
        layout = replace(self.layout, text_config=language_config(config))
        return replace(self, config=config, layout=layout, places=places, has_own_config=True)

    @property
    def is_computed(self) -> bool:
        """Whether tensors are computed while they are read, so that transformers cannot read them from the files."""
        return any(isinstance(place, ComputedPlace) for place in self.places.values()) or self.adapter is not None

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer: the adapter's, if it brings one, else the model's."""
        brings = self.adapter is not None and tokenizer_files(self.adapter)
        return self.adapter if self.adapter is not None and brings else self.folder

    def support_files(self) -> SupportFiles:
        """Return the files that go with the weights in a merged model. Raises what `host_files` raises."""
        found = host_files(self.folder)
        if self.tokenizer_folder == self.folder:
            return found
        own = {name: path for name, path in found.files.items() if name not in TOKENIZER_FILES}
        return replace(found, files={**own, **tokenizer_files(self.tokenizer_folder)})

    def backbone_names(self) -> tuple[str, ...]:
        """The backbone's tensors by their backbone names, in the model's order, without a tied head."""
        own = (name for name in self.layout.names if not (self.layout.tied and name == HEAD))
        return tuple(sorted(own, key=natural_order))

    def backbone_places(self) -> Mapping[str, TensorPlace]:
        """Return where the backbone's tensors are, by their backbone names."""
        return {name: self.places[disk] for name, disk in self.layout.names.items()}

    def other_names(self) -> tuple[str, ...]:
        """The tensors outside the backbone, by their names on disk, sorted."""
        return tuple(sorted(name for name in self.places if self.layout.backbone_name_from_disk(name) is None))

    def place(self, backbone_name: str) -> TensorPlace:
        """Return where a backbone tensor is; the head of a tied model is its embedding.

        Raises KeyError when the checkpoint has no such tensor.
        """
        stored = EMBEDDING if backbone_name == HEAD and self.layout.tied else backbone_name
        return self.places[self.layout.names[stored]]

    def has(self, backbone_name: str) -> bool:
        """Whether the checkpoint has this backbone tensor (a tied head counts)."""
        stored = EMBEDDING if backbone_name == HEAD and self.layout.tied else backbone_name
        return stored in self.layout.names

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


def find_adapter(ref: ModelRef) -> tuple[ModelRef, ModelRef | None]:
    """Return the model and the adapter that a reference names, as `with_adapter`; the hub is asked, too."""
    if len(ref.parts) == 1 and isinstance(found := ref.find(), HubModel) and is_adapter_on_hub(found):
        # Its config names its model.
        fetch(found, wanted="adapter-headers")
    return with_adapter(ref)


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return a config that names `dtype` wherever it names one."""
    return {
        key: dtype if key in _DTYPE_KEYS else _with_dtype(own, dtype) if isinstance(own, Mapping) else own
        for key, own in config.items()
    }


def _with_text_setting(config: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """Return a config with a setting of the language model, wherever VLMs of any kind look for it."""
    changed = deepcopy(dict(config))
    part = changed
    for inner in language_path(config):
        part[key] = value
        part = part[inner]
    part[key] = value
    return changed


def _open_headers(model: ModelRef, *, declared: BackbonePrefixes | None) -> Checkpoint:
    found = model.find()
    if isinstance(found, Path):
        return Checkpoint.open(found, declared=declared)
    folder = fetch(found, wanted="headers")
    if has_weights(folder):
        return Checkpoint.open(folder, declared=declared)
    return Checkpoint._of_folder(folder, lambda there: _remote_places(found, there), declared=declared)


def _adapter_places(adapter: ModelRef) -> tuple[Path, Mapping[str, TensorPlace]]:
    """Return an adapter's folder and tensors, which are fetched where they are on the hub."""
    found = adapter.find()
    folder = found if isinstance(found, Path) else fetch(found, wanted="adapter")
    refuse_odd_files(folder)
    if not (folder / ADAPTER_FILE).is_file():
        raise missing_weights(folder)
    refuse_outside(folder / ADAPTER_FILE, folder)
    return folder, tensor_places(folder / ADAPTER_FILE)


def _adapter_headers(adapter: ModelRef) -> tuple[Path, Mapping[str, TensorPlace]]:
    found = adapter.find()
    if isinstance(found, Path):
        return _adapter_places(adapter)
    folder = fetch(found, wanted="adapter-headers")
    if (folder / ADAPTER_FILE).is_file():
        return _adapter_places(adapter)
    return folder, _remote_file(found, ADAPTER_FILE, folder=folder, commit=look_up(found).commit)


def _is_embedding(head: TensorPlace, embedding: TensorPlace) -> bool:
    if _is_on_hub(head) or _is_on_hub(embedding):
        # Their bytes are still on the hub: until they are fetched, config.json is trusted for tensors of one model. An
        # adapter that changes only one of them separates them.
        of_one = head.file.parent == embedding.file.parent and type(head) is type(embedding)
        return of_one and (head.dtype_code, head.shape) == (embedding.dtype_code, embedding.shape)
    return hold_the_same(head, embedding)


def _is_on_hub(place: TensorPlace | LowRank) -> bool:
    """Whether a tensor, or one that it is computed from, was not fetched."""
    parts = [getattr(place, each.name) for each in fields(place)]
    return isinstance(place, RemotePlace) or any(
        _is_on_hub(part) for part in parts if isinstance(part, (TensorPlace, LowRank))
    )


def _local_places(folder: Path) -> Mapping[str, TensorPlace]:
    if (folder / SINGLE_FILE).is_file():
        refuse_outside(folder / SINGLE_FILE, folder)
        return tensor_places(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise missing_weights(folder)
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
        return _remote_file(model, file, folder=folder, commit=listing.commit)

    if SINGLE_FILE in listing.size_bytes:
        return places_of(SINGLE_FILE)
    weight_map = read_weight_map(folder / INDEX_FILE)
    shards = sorted(set(weight_map.values()))
    with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
        found = dict(zip(shards, pool.map(places_of, shards), strict=True))
    return _places_by_index(weight_map, found, where=str(model))


def _remote_file(model: HubModel, file: str, *, folder: Path, commit: str) -> Mapping[str, TensorPlace]:
    """Return the places of the tensors of one file; `folder` is in the cache."""
    return {
        name: RemotePlace(
            file=folder / file,
            name=name,
            dtype_code=entry.dtype_code,
            shape=entry.shape,
            start=entry.start,
            stop=entry.stop,
        )
        for name, entry in read_header(model, file, commit=commit).items()
    }


def _places_by_index(
    weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorPlace]], *, where: str
) -> Mapping[str, TensorPlace]:
    """Return the tensors that an index names, out of the shards; raises BrokenCheckpoint when a shard lacks one."""
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise BrokenCheckpoint(f"{where}: {shard} does not contain {name}, which {INDEX_FILE} lists.")
    return {name: shards[shard][name] for name, shard in weight_map.items()}
