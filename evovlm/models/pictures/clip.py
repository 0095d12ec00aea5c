"""Load open_clip models, which embed pictures and texts in one space: safetensors only, no remote code.

A model is named by

    models/my-clip                       a folder with open_clip_config.json and safetensors weights
    laion/CLIP-ViT-B-32-laion2B-s34B-b79K@main   a hub repository with the same files
    ViT-B-32:laion2b_s34b_b79k           open_clip's own names for a model and its weights, fetched from the hub
    ViT-B-32:weights.safetensors         open_clip's name for a model, and a file of its weights
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import dynamic_module_utils

from evovlm.devices import choose_device
from evovlm.errors import BrokenCheckpoint, ModelNotFound, PickledWeights, UnknownArchitecture, first_line
from evovlm.foreign_json import read_json
from evovlm.recipes.problems import did_you_mean

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_FETCHED = [
    _CONFIG,
    "open_clip*.safetensors",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
]
_HUB_ID = re.compile(r"(?:hf-hub:)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_AT_ONCE = 64
_LARGEST_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipModel:
    """An open_clip model in evaluation mode, float32, with its tokenizer and its preprocessing of pictures."""

    model: Any
    tokenizer: Any
    preprocess: Any
    device: torch.device

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Return a unit vector per picture, shape (pictures, dim), float32, on the CPU."""
        rows = [
            self.model.encode_image(
                torch.stack([self.preprocess(image) for image in part]).to(self.device), normalize=True
            )
            for part in _parts(images)
        ]
        return torch.cat(rows).float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return a unit vector per text, shape (texts, dim), float32, on the CPU; long texts are truncated."""
        rows = [
            self.model.encode_text(self.tokenizer(list(part)).to(self.device), normalize=True) for part in _parts(texts)
        ]
        return torch.cat(rows).float().cpu()


def load_clip(name: str, *, device: str = "auto") -> ClipModel:
    """Load the open_clip model of that name; the module's docstring says how models are named.

    Raises ModelNotFound when it is not found, PickledWeights when its weights are not safetensors, BrokenCheckpoint
    when a part is missing or does not fit, UnknownArchitecture when it needs remote code, ConfigError for a device
    that does not exist.
    """
    place = choose_device(device)
    architecture, colon, weights = name.partition(":")
    if Path(name).is_dir():
        return _load_folder(Path(name), place)
    if colon and architecture != "hf-hub":
        if architecture not in open_clip.list_models():
            raise ModelNotFound(
                f"CLIP model '{name}': open_clip has no model '{architecture}'"
                f"{did_you_mean(architecture, open_clip.list_models())}"
            )
        if Path(weights).is_file():
            return _load(architecture, Path(weights), tokenizer=architecture, device=place)
        return _load_folder(_fetch(name, _repository(architecture, tag=weights), revision=None), place)
    hub = _HUB_ID.fullmatch(name)
    if hub is None or name.startswith((".", "/", "~")):
        raise ModelNotFound(
            f"CLIP model '{name}': folder not found. Name a folder with {_CONFIG}, a hub id, or open_clip's names: "
            "MODEL:WEIGHTS."
        )
    return _load_folder(_fetch(name, hub["id"], revision=hub["revision"]), place)


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]


def _repository(architecture: str, *, tag: str) -> str:
    """Return the hub repository of open_clip's weights; its safetensors file is read instead of any pickle."""
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        raise ModelNotFound(
            f"CLIP model '{architecture}:{tag}': file not found, and open_clip has no weights of that name"
            f"{did_you_mean(tag, open_clip.list_pretrained_tags_by_model(architecture))}"
        )
    repository = str(config.get("hf_hub") or "").rpartition("/")[0]
    if not repository:
        raise PickledWeights(
            f"CLIP model '{architecture}:{tag}': its weights are published only as a pickle. Name others."
        )
    return repository


def _fetch(name: str, repository: str, *, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    from evovlm.recipes.hub_client import HUB_ERRORS, fetching, refusal

    download = partial(snapshot_download, repository, revision=revision, allow_patterns=_FETCHED)
    try:
        return Path(fetching(lambda bar: download(tqdm_class=bar)))
    except HUB_ERRORS as error:
        why = refusal(error)
        raise ModelNotFound(
            f"CLIP model '{name}': {repository} cannot be fetched from the hub: {why.reason}.\n"
            f"    {why.remedy} Or name a folder that holds the model."
        ) from error


def _load_folder(folder: Path, device: torch.device) -> ClipModel:
    config = folder / _CONFIG
    if not config.is_file():
        raise BrokenCheckpoint(f"{folder}: {_CONFIG} is missing; a folder of open_clip holds it and the weights.")
    # open_clip passes this config to transformers' tokenizer unchanged.
    if "trust_remote_code" in _unescaped(config):
        raise UnknownArchitecture(
            f"{config}: asks for trust_remote_code. Models that need their own code are not loaded."
        )
    return _load(f"local-dir:{folder}", _weights_in(folder), tokenizer=f"local-dir:{folder}", device=device)


def _unescaped(config: Path) -> str:
    """Return a JSON file's text without escapes, which could hide a key."""
    try:
        return json.dumps(read_json(config, limit_bytes=_LARGEST_CONFIG_BYTES), ensure_ascii=False)
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{config}: cannot be read as JSON ({first_line(error)}). Fetch it again.") from error


def _weights_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    named = [folder / name for name in _WEIGHTS if folder / name in found]
    if named or len(found) == 1:
        return (named or found)[0]
    if found:
        raise BrokenCheckpoint(f"{folder}: holds {len(found)} safetensors files. Call the weights {_WEIGHTS[0]}.")
    if any(path.suffix in (".bin", ".pt", ".pth") for path in folder.iterdir()):
        raise PickledWeights(f"{folder}: its weights are pickled, which is never read. Convert them to safetensors.")
    raise BrokenCheckpoint(
        f"{folder}: no safetensors weights found (pickled ones are never read). Fetch {_WEIGHTS[0]} too."
    )


def _load(name: str, weights: Path, *, tokenizer: str, device: torch.device) -> ClipModel:
    if weights.suffix != ".safetensors":
        raise PickledWeights(f"{weights}: not a safetensors file. No other format is read; convert it to safetensors.")
    try:
        with _quiet(), _asking_nobody():
            model = open_clip.create_model(name, load_weights=False, pretrained_image=False, pretrained_text=False)
            open_clip.load_checkpoint(model, str(weights))
            words = open_clip.get_tokenizer(tokenizer)
        preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise BrokenCheckpoint(f"{weights.parent}: open_clip cannot load it: {error}") from error
    return ClipModel(model=model.to(device).eval(), tokenizer=words, preprocess=preprocess, device=device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's warning on the root logger about random weights, which are loaded right after."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _asking_nobody() -> Iterator[None]:
    """Have transformers refuse a text tower or tokenizer that brings code, instead of asking on the terminal."""
    library: Any = dynamic_module_utils
    before = library.TIME_OUT_REMOTE_CODE
    library.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        library.TIME_OUT_REMOTE_CODE = before
