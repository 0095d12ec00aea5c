"""Models on the hub: their files, and the hub's cache of them.

All access goes through huggingface_hub, with its cache, its login and its offline mode (HF_HUB_OFFLINE=1), and through
the client of `hub_client`, which is imported only where the hub is asked, because huggingface_hub is slow to import.
"""

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evovlm.errors import BrokenCheckpoint, ModelError, ModelNotFound, first_line
from evovlm.recipes.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PICKLE_INDEX,
    SINGLE_FILE,
    SINGLE_PICKLE,
    holds_adapter,
    is_adapter,
    read_weight_map,
    support_names,
)
from evovlm.recipes.missing_weights import explain_weights

Wanted = Literal["weights", "headers", "pickles", "adapter", "adapter-headers"]
"""What to fetch besides config, tokenizer and card.

Safetensors weights, only their index, pickled weights, an adapter with its config, or only its config.
"""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_IN_URL = re.compile(r"/resolve/[^/]+/(?P<file>[^?#]+)")
_STEP_FOLDER = re.compile(r"checkpoint-(?P<step>\d{1,12})/(?P<file>[^/]+)$")
_MARKERS = (CONFIG_FILE, ADAPTER_CONFIG_FILE)
_OF_ADAPTERS: Mapping[Wanted, Sequence[str]] = {
    "adapter": (ADAPTER_CONFIG_FILE, ADAPTER_FILE),
    "adapter-headers": (ADAPTER_CONFIG_FILE,),
}
_ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model on the hub; without a revision, its main branch.

    `hint` says which folders of this machine could be meant instead, for the message when the hub does not have it.
    """

    id: str
    revision: str | None = None
    hint: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubListing:
    """The files of a model at one commit, with their sizes in bytes."""

    commit: str
    size_bytes: Mapping[str, int]


class HeaderEntry(NamedTuple):
    """A tensor in a safetensors header: dtype code, shape, and its byte range in the file's data."""

    dtype_code: str
    shape: tuple[int, ...]
    start: int
    stop: int


def look_up(model: HubModel) -> HubListing:
    """Return the model's files on the hub; a process asks once. Raises ModelNotFound with the reason."""
    from huggingface_hub import constants

    return _look_up(model, str(constants.ENDPOINT), bool(constants.HF_HUB_OFFLINE))


@lru_cache(maxsize=64)
def _look_up(model: HubModel, _endpoint: str, _offline: bool) -> HubListing:
    from huggingface_hub import HfApi

    from evovlm.recipes.hub_client import HUB_ERRORS, ask_patiently

    ask_patiently()
    try:
        found = HfApi().model_info(model.id, revision=model.revision, files_metadata=True)
        files = {each.rfilename: each.size or 0 for each in found.siblings or ()}
    except HUB_ERRORS as error:
        raise _explained(model, error, looked_up=False) from error
    return HubListing(commit=str(found.sha), size_bytes=files)


def check_exists(model: HubModel) -> None:
    """Raise ModelNotFound when neither the hub nor its cache has the model."""
    try:
        look_up(model)
    except ModelNotFound:
        if cached_folder(model) is None:
            raise


def unreachable_reason() -> str | None:
    """Return why the hub cannot be asked now, None where it answers; a process asks once, and waits a few seconds."""
    from huggingface_hub import constants

    return "offline mode is on" if constants.HF_HUB_OFFLINE else _unreachable_reason(str(constants.ENDPOINT))


@lru_cache(maxsize=8)
def _unreachable_reason(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    from evovlm.recipes.hub_client import HUB_ERRORS, ask_patiently, refusal

    ask_patiently()
    try:
        get_session().head(endpoint, timeout=_ANSWER_TIMEOUT_S)
    except HUB_ERRORS as error:
        return refusal(error).reason
    return None


def fetch(model: HubModel, *, wanted: Wanted = "weights") -> Path:
    """Return the model's folder in the hub's cache, with the `wanted` files; only files that are used are fetched.

    When the hub cannot be reached, a complete copy of this revision in the cache is used. Raises ModelNotFound with the
    reason, PickledWeights or BrokenCheckpoint when the hub does not have such weights.
    """
    try:
        listing = look_up(model)
    except ModelNotFound as error:
        return _from_cache(model, wanted=wanted, reason=error)
    return _download(model, [*support_names(listing.size_bytes), *_weight_files(model, listing, wanted=wanted)])


def is_adapter_on_hub(model: HubModel) -> bool:
    """Whether a repository holds an adapter and not a whole model; where the hub cannot be reached, the cache's copy.

    Never raises: fetching the model says what is wrong with it.
    """
    try:
        return holds_adapter(look_up(model).size_bytes)
    except ModelNotFound:
        folder = cached_folder(model)
        return folder is not None and is_adapter(folder)


def missing_bytes(model: HubModel, *, wanted: Wanted = "weights") -> int:
    """Return how many bytes of the `wanted` weights are not yet in the model's folder of the cache."""
    try:
        listing = look_up(model)
    except ModelNotFound:
        # The hub cannot be reached: nothing more can be fetched.
        return 0
    names = _weight_files(model, listing, wanted=wanted)
    folder = cached_folder(model)
    return sum(listing.size_bytes[name] for name in names if folder is None or not (folder / name).exists())


def cached_folder(model: HubModel) -> Path | None:
    """Return the folder of this revision in the cache, complete or not; never uses the network."""
    from huggingface_hub import snapshot_download

    from evovlm.recipes.hub_client import HUB_ERRORS

    try:
        return Path(
            snapshot_download(model.id, revision=model.revision, local_files_only=True, allow_patterns=[CONFIG_FILE])
        )
    except HUB_ERRORS:
        return None


def cache_folder() -> Path:
    """Return the folder of the hub's cache, which may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def hub_commit(folder: Path) -> str | None:
    """Return the commit that a folder of the hub's cache holds, None for any other folder."""
    in_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.name if in_cache and _COMMIT.fullmatch(folder.name) else None


def has_weights(folder: Path) -> bool:
    """Whether the folder has all safetensors weights of the checkpoint."""
    if (folder / SINGLE_FILE).is_file():
        return True
    if not (folder / INDEX_FILE).is_file():
        return False
    return all((folder / shard).is_file() for shard in read_weight_map(folder / INDEX_FILE).values())


def read_header(model: HubModel, file: str, *, commit: str) -> Mapping[str, HeaderEntry]:
    """Return the header of a safetensors file on the hub, read by HTTP range without fetching weights.

    Raises ModelNotFound when the hub cannot be reached, BrokenCheckpoint when the file is not a safetensors file.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    from evovlm.recipes.hub_client import HUB_ERRORS, ask_patiently

    ask_patiently()
    try:
        header = HfApi().parse_safetensors_file_metadata(model.id, file, revision=commit)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise BrokenCheckpoint(f"Model '{model}': {file} is not a safetensors file ({first_line(error)}).") from error
    except HUB_ERRORS as error:
        raise _explained(model, error, file=file) from error
    return {
        name: HeaderEntry(str(entry.dtype), tuple(entry.shape), *entry.data_offsets)
        for name, entry in header.tensors.items()
    }


def _weight_files(model: HubModel, listing: HubListing, *, wanted: Wanted) -> Sequence[str]:
    """Return the weight files to fetch, in the order in which transformers looks for them: a single file first."""
    files = listing.size_bytes
    if wanted in _OF_ADAPTERS:
        names = _OF_ADAPTERS[wanted]
        if any(name not in files for name in names):
            raise _no_weights(model, listing, wanted=wanted)
        return names
    single, index = (SINGLE_PICKLE, PICKLE_INDEX) if wanted == "pickles" else (SINGLE_FILE, INDEX_FILE)
    if single in files:
        return [] if wanted == "headers" else [single]
    if index not in files:
        raise _no_weights(model, listing, wanted=wanted)
    if wanted == "headers":
        return [index]
    shards = sorted(set(read_weight_map(_download(model, [index]) / index).values()))
    absent = [shard for shard in shards if shard not in files]
    if absent:
        raise BrokenCheckpoint(f"Model '{model}': {index} names {absent[0]}, which the hub does not have.")
    return [index, *shards]


def _no_weights(model: HubModel, listing: HubListing, *, wanted: Wanted) -> ModelError:
    files = listing.size_bytes
    if wanted == "pickles":
        return BrokenCheckpoint(
            f"Model '{model}': the hub has neither {SINGLE_PICKLE} nor {PICKLE_INDEX}. Nothing needs to be converted."
        )
    steps = sorted(
        {int(match["step"]) for name in files if (match := _STEP_FOLDER.match(name)) and match["file"] in _MARKERS}
    )
    return explain_weights(
        f"Model '{model}' on the hub",
        [name for name in files if "/" not in name],
        to_convert=str(model),
        steps=[f"checkpoint-{step}" for step in steps],
    )


def _download(model: HubModel, names: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    from evovlm.recipes.hub_client import HUB_ERRORS, fetching

    patterns = [glob.escape(name) for name in sorted(set(names))]
    download = partial(snapshot_download, model.id, revision=model.revision, allow_patterns=patterns)
    try:
        return Path(fetching(lambda bar: download(tqdm_class=bar)))
    except HUB_ERRORS as error:
        raise _explained(model, error) from error


def _from_cache(model: HubModel, *, wanted: Wanted, reason: ModelNotFound) -> Path:
    folder = cached_folder(model)
    if folder is None:
        raise reason
    lacking = _lacking(folder, wanted=wanted)
    if lacking is None:
        return folder
    raise ModelNotFound(f"{reason}\n    The cache has only a part of it, without {lacking}: {folder}") from reason


def _lacking(folder: Path, *, wanted: Wanted) -> str | None:
    if wanted in _OF_ADAPTERS:
        return next((name for name in _OF_ADAPTERS[wanted] if not (folder / name).is_file()), None)
    if not (folder / CONFIG_FILE).is_file():
        return CONFIG_FILE
    if wanted == "headers":
        return None
    single, index = (SINGLE_PICKLE, PICKLE_INDEX) if wanted == "pickles" else (SINGLE_FILE, INDEX_FILE)
    if (folder / single).is_file():
        return None
    if not (folder / index).is_file():
        return single
    shards = sorted(set(read_weight_map(folder / index).values()))
    return next((shard for shard in shards if not (folder / shard).is_file()), None)


def _explained(model: HubModel, error: Exception, *, file: str | None = None, looked_up: bool = True) -> ModelNotFound:
    """Return the error that says what the hub refused, and what to do; `looked_up` means that the model exists."""
    from huggingface_hub import constants

    from evovlm.recipes.hub_client import refusal

    what = f"Model '{model}'"
    if found := file or _file_of(error):
        what += f", {found}"
    meant = f" {model.hint}" if model.hint else ""
    if (known := _known_refusal(model, error, meant=meant)) is not None:
        return ModelNotFound(f"{what}: {known}")
    why = refusal(error)
    if why.answered or looked_up:
        kept = " Files that are complete are kept." if looked_up else ""
        return ModelNotFound(
            f"{what}: fetching it from the hub ({constants.ENDPOINT}) failed: {why.reason}.\n    {why.remedy}{kept}"
        )
    return ModelNotFound(
        f"{what}: there is no such folder.{meant}\n"
        f"    As a hub id it cannot be fetched: {why.reason}.\n"
        f"    {why.remedy} Without a network, name a folder, or a model in the hub's cache ({constants.HF_HUB_CACHE})."
    )


def _known_refusal(model: HubModel, error: Exception, *, meant: str) -> str | None:
    """Return what one of the errors of huggingface_hub says about a model, None for others; `meant` is its hint."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            "the model is gated: you have not accepted its conditions, or are not logged in.\n"
            f"    Accept them on {constants.ENDPOINT}/{model.id}, then run `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"the hub does not have the revision '{model.revision}' of this model.\n"
            "    Name a branch, a tag or a whole commit hash."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no such folder, and the hub ({constants.ENDPOINT}) has no such model, or it is private.\n"
            f"    Check the spelling; for a private model run `hf auth login`.{meant}"
        )
    if constants.HF_HUB_OFFLINE:
        return (
            f"is neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and offline mode is on.\n"
            f"    Unset HF_HUB_OFFLINE to fetch it, or name a folder.{meant}"
        )
    if isinstance(error, errors.HFValidationError):
        return f"is neither a folder nor a valid hub id ({first_line(error)})."
    return None


def _file_of(error: Exception) -> str | None:
    response: Any = getattr(error, "response", None)
    match = _FILE_IN_URL.search(str(getattr(response, "url", "")))
    return match["file"] if match else None
