"""A model as people write it (`zoo:NAME`, a folder, or a hub id with an optional `@revision`), and its config.json."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evovlm.assets import asset_path
from evovlm.errors import BrokenCheckpoint, ModelNotFound
from evovlm.files import expanded, name_problem
from evovlm.recipes.hub import HubModel, cached_folder, fetch
from evovlm.recipes.model_config import read_model_config

_ZOO = "zoo:"
_DTYPES = {"float64", "float32", "float16", "bfloat16"}
_HUB_ID = re.compile(r"(?P<id>[\w.-]{1,96}/[\w.-]{1,96})(@(?P<revision>[\w./-]{1,200}))?", re.ASCII)
_SHOWN = 200


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
        folder = None if self.text.startswith(_ZOO) else self.local_folder()
        return self.text if folder is None else folder.resolve().as_posix()

    def local_folder(self) -> Path | None:
        """Return the folder this names if it is there already; never touches the network."""
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

        Raises ModelNotFound for a text that is neither.
        """
        folder = self.local_folder()
        if folder is not None:
            return folder
        problem = name_problem(self.text)
        if problem is not None:
            raise ModelNotFound(f"Model {self.text[:_SHOWN]!r}: the name {problem}.")
        if self.text.startswith(_ZOO):
            raise ModelNotFound(self._missing_from_zoo())
        hub = None if self.text.startswith((".", "/", "~")) else _HUB_ID.fullmatch(self.text)
        if hub is None:
            raise ModelNotFound(
                f"Model '{self.text}': there is no folder {self._as_path()}.\n"
                "    Name an existing folder, a hub id ('org/name' or 'org/name@revision') or 'zoo:NAME'."
            )
        return HubModel(id=hub["id"], revision=hub["revision"])

    def folder_at_hand(self) -> Path | None:
        """Return the model's folder, or the part of it that the hub's cache holds; never touches the network.

        Raises ModelNotFound for what is neither a folder nor a hub id.
        """
        found = self.find()
        return found if isinstance(found, Path) else cached_folder(found)

    def _as_path(self) -> Path:
        path = expanded(Path(self.text))
        return path if path.is_absolute() or self.origin is None else self.origin / path

    def _missing_from_zoo(self) -> str:
        zoo = asset_path("zoo")
        names = sorted(path.parent.name for path in zoo.glob("*/config.json"))
        known = ", ".join(_ZOO + name for name in names) or "none is installed"
        return f"Model '{self.text}': the zoo has no such model (looked in {zoo}).\n    Known: {known}."


def parse_model_ref(text: str, *, relative_to: Path | None) -> ModelRef:
    """Return the reference that `text` means in a file of the folder `relative_to`."""
    return ModelRef(text=text.strip(), origin=relative_to)


def read_config(ref: ModelRef) -> Mapping[str, Any] | None:
    """Return the model's config.json: from its folder, or from the hub's cache; None when it is in neither."""
    try:
        folder = ref.folder_at_hand()
    except ModelNotFound:
        return None
    return config_in(folder)


def config_in(folder: Path | None) -> Mapping[str, Any] | None:
    """Return the config.json of a model's folder; None where it is missing or broken."""
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        return read_model_config(folder)
    except BrokenCheckpoint:
        # Opening the checkpoint reports what is wrong with it.
        return None


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the config that describes the language model: of a text LLM, all of it."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def count_blocks(config: Mapping[str, Any]) -> int | None:
    """Return the number of decoder blocks, None when the config does not say."""
    blocks = text_config(config).get("num_hidden_layers")
    return blocks if isinstance(blocks, int) and not isinstance(blocks, bool) and blocks > 0 else None


def stored_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the name of the dtype that the config says the weights are stored in, None when it does not say."""
    for part in (config, text_config(config)):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key)).removeprefix("torch.")
            if name in _DTYPES:
                return name
    return None
