"""A model as people write it, and its config.json.

It is `zoo:NAME`, a folder, or a hub id with an optional `@revision`; one of these with an adapter, `MODEL+ADAPTER`; or
an adapter alone, whose adapter_config.json names its model.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from evovlm.assets import asset_path
from evovlm.errors import BrokenCheckpoint, ModelNotFound
from evovlm.files import expanded, name_problem
from evovlm.recipes.checkpoint_files import ADAPTER_CONFIG_FILE, is_adapter
from evovlm.recipes.hub import HubModel, cached_folder, fetch
from evovlm.recipes.language_config import language_config, stated_blocks
from evovlm.recipes.model_config import read_model_config, read_model_json
from evovlm.recipes.weights_header import float_dtype

_ZOO = "zoo:"
_JOINT = "+"
_DTYPES = {"float64", "float32", "float16", "bfloat16"}
_HUB_ID = re.compile(r"(?P<id>[\w.-]{1,96}/[\w.-]{1,96})(@(?P<revision>[\w./-]{1,200}))?", re.ASCII)
_SHOWN = 200
_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Where a model comes from.

    `text` is what was written; `origin` is the folder that a relative path is taken against (None: the current one).
    Two references are equal when both are.
    """

    text: str
    origin: Path | None = None

    @property
    def identity(self) -> str:
        """What the reference means wherever it is written: the text, or for a folder that exists its absolute path."""
        return self.rewritten(lambda part, folder: part.text if folder is None else folder.resolve().as_posix())

    @property
    def parts(self) -> "tuple[ModelRef, ...]":
        """The model and the adapter of `MODEL+ADAPTER`; else the reference itself, as for a folder with a plus sign."""
        if _JOINT not in self.text or name_problem(self.text) is not None or self._as_path().is_dir():
            return (self,)
        texts = [part.strip() for part in self.text.split(_JOINT)]
        return tuple(ModelRef(text=text, origin=self.origin) for text in texts) if all(texts) else (self,)

    def rewritten(self, written: "Callable[[ModelRef, Path | None], str]") -> str:
        """Return the reference as a text in which each part is what `written` returns for it.

        `written` also gets the part's folder where it exists and is not in the zoo.
        """
        return _JOINT.join(
            written(part, None if part.text.startswith(_ZOO) else part.local_folder()) for part in self.parts
        )

    def check_parts(self) -> None:
        """Raise ModelNotFound when a part is neither a folder nor a hub id; never touches the network."""
        parts = self.parts if len(self.parts) <= 2 else (self,)
        for part in parts:
            part.find()

    def local_folder(self) -> Path | None:
        """Return the folder this names if it is there already, None for `MODEL+ADAPTER`; never touches the network."""
        if name_problem(self.text) is not None:
            return None
        in_zoo = self.text.startswith(_ZOO)
        folder = asset_path(f"zoo/{self.text.removeprefix(_ZOO)}") if in_zoo else self._as_path()
        return folder if folder.is_dir() else None

    def resolve(self) -> Path:
        """Return the local folder of the model, fetching it from the hub when it is not a folder.

        Of a hub model the safetensors weights, config, tokenizer and card are fetched, into the hub's own cache; the
        folder's name is then the commit (see `hub_commit`). Raises ModelNotFound when no such folder, zoo model or hub
        id can be reached, PickledWeights or BrokenCheckpoint when the hub has no safetensors weights of it.
        """
        found = self.find()
        return found if isinstance(found, Path) else fetch(found)

    def find(self) -> Path | HubModel:
        """Return the model's folder if it exists, else its location on the hub; never touches the network.

        Raises ModelNotFound for a text that is neither; of `MODEL+ADAPTER`, each of the `parts` can be found.
        """
        folder = self.local_folder()
        if folder is not None:
            return folder
        problem = name_problem(self.text)
        if problem is not None:
            raise ModelNotFound(f"Model {self.text[:_SHOWN]!r}: the name {problem}.")
        if self.text.startswith(_ZOO):
            raise ModelNotFound(self._missing_from_zoo())
        if len(self.parts) != 1:
            raise ModelNotFound(
                f"Model '{self.text[:_SHOWN]}': a model takes one adapter (MODEL+ADAPTER), and here it takes none.\n"
                "    Merge the adapter into its model first, with a recipe of this one source."
            )
        hub = None if self.text.startswith((".", "/", "~")) else _HUB_ID.fullmatch(self.text)
        if hub is None:
            raise ModelNotFound(
                f"Model '{self.text}': there is no folder {self._as_path()}. {self._hint()}".rstrip() + "\n"
                "    Name an existing folder, a hub id ('org/name' or 'org/name@revision') or 'zoo:NAME'; with an "
                "adapter, MODEL+ADAPTER."
            )
        if self._as_path().is_file():
            raise ModelNotFound(f"Model '{self.text}': is a file. Name the folder that holds the whole model.")
        return HubModel(id=hub["id"], revision=hub["revision"], hint=self._hint())

    def folder_at_hand(self) -> Path | None:
        """Return the model's folder, or the part of it that the hub's cache holds; never touches the network.

        Raises ModelNotFound for what is neither a folder nor a hub id.
        """
        found = self.find()
        return found if isinstance(found, Path) else cached_folder(found)

    def _as_path(self) -> Path:
        path = expanded(Path(self.text))
        return path if path.is_absolute() or self.origin is None else self.origin / path

    def _hint(self) -> str:
        """Return which folder may be meant: the one beside it with the most similar name, else all; "" without any."""
        path = self._as_path()
        try:
            names = sorted(each.name for each in os.scandir(path.parent) if each.is_dir())
        except OSError:
            return ""
        if close := get_close_matches(path.name, names, n=1):
            return f"Did you mean the folder {path.with_name(close[0])}?"
        more = ", ..." if len(names) > _NAMED else ""
        return f"The folders in {path.parent} are {', '.join(names[:_NAMED])}{more}." if names else ""

    def _missing_from_zoo(self) -> str:
        zoo = asset_path("zoo")
        names = sorted(path.parent.name for path in zoo.glob("*/*.safetensors"))
        known = ", ".join(_ZOO + name for name in names) or "none is installed"
        return f"Model '{self.text}': the zoo has no such model (looked in {zoo}).\n    Known: {known}."


def parse_model_ref(text: str, *, relative_to: Path | None) -> ModelRef:
    """Return the reference that `text` means in a file of the folder `relative_to`."""
    return ModelRef(text=text.strip(), origin=relative_to)


def with_adapter(ref: ModelRef) -> tuple[ModelRef, ModelRef | None]:
    """Return the model and the adapter that a reference names, None for a model without one; never uses the network.

    An adapter alone is looked into when its folder exists or is in the hub's cache. Raises ModelNotFound for what is
    neither a folder nor a hub id, BrokenCheckpoint for an adapter that does not name its base.
    """
    if len(ref.parts) == 2:
        model, adapter = ref.parts
        return model, adapter
    folder = ref.folder_at_hand()
    if folder is None or not is_adapter(folder):
        return ref, None
    return _base_of(folder, on_hub=isinstance(ref.find(), HubModel)), ref


def all_parts(ref: ModelRef) -> tuple[ModelRef, ...]:
    """Return the model and, where there is one, the adapter of `with_adapter`, which says what it raises."""
    model, adapter = with_adapter(ref)
    return (model,) if adapter is None else (model, adapter)


def _base_of(folder: Path, *, on_hub: bool) -> ModelRef:
    """Return the model that the adapter in `folder` was trained on; a relative path starts at the folder."""
    file = folder / ADAPTER_CONFIG_FILE
    settings = read_model_json(file)
    text, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if isinstance(text, str) and text:
        local = ModelRef(text=text, origin=folder)
        # A stranger's adapter must not lead to a folder of this machine.
        if not on_hub and local.local_folder() is not None:
            return local
        found = f"{text}@{revision}" if isinstance(revision, str) and revision else text
        if _HUB_ID.fullmatch(found):
            return ModelRef(text=found, origin=folder)
    raise BrokenCheckpoint(
        f"{file}: its base_model_name_or_path is {str(text)[:_SHOWN]!r}, which is not a model on the hub.\n"
        "    Name the model that it was trained on yourself: MODEL+ADAPTER."
    )


def read_config(ref: ModelRef) -> Mapping[str, Any] | None:
    """Return the model's config.json: from its folder, or from the hub's cache; None when it is in neither."""
    try:
        return config_in(with_adapter(ref)[0].folder_at_hand())
    except (ModelNotFound, BrokenCheckpoint):
        return None


def local_config(ref: ModelRef) -> Mapping[str, Any] | None:
    """Return the model's config.json as `read_config`, but only from a folder that is not in the hub's cache."""
    if ref.parts[0].local_folder() is None:
        return None
    try:
        return config_in(with_adapter(ref)[0].local_folder())
    except (ModelNotFound, BrokenCheckpoint):
        return None


def config_in(folder: Path | None) -> Mapping[str, Any] | None:
    """Return the config.json of a model's folder; None where it is missing or broken."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        return read_model_config(folder)
    except BrokenCheckpoint:
        # Opening the checkpoint reports what is wrong with it.
        return None


def count_blocks(config: Mapping[str, Any]) -> int | None:
    """Return the number of decoder blocks, None when the config does not say."""
    return stated_blocks(language_config(config))


def weights_dtype(ref: ModelRef) -> str | None:
    """Return the name of the dtype of a model's weights; of a hub model that is not in the cache, None.

    The headers of the weights count, config.json only where they are not on this machine.
    """
    try:
        folder = with_adapter(ref)[0].folder_at_hand()
    except (ModelNotFound, BrokenCheckpoint):
        return None
    found = None if folder is None else float_dtype(folder)
    return found or stored_dtype(config_in(folder) or {})


def stored_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the name of the dtype that the config says the weights are stored in, None when it does not say."""
    for part in (config, language_config(config)):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key)).removeprefix("torch.")
            if name in _DTYPES:
                return name
    return None
