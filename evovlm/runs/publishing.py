"""Publishes a merged checkpoint on the hub, with its model card, complete or not at all.

The card is sent last. A repository with a card is a finished publication and is never overwritten; one without a card
that contains nothing else is an interrupted publication and is continued.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from evovlm.errors import BrokenCheckpoint, ConfigError, OutputError, OutputExists, PickledWeights, first_line
from evovlm.masking import masked
from evovlm.merging.checkpoint.licences import UNKNOWN, licence_of
from evovlm.merging.checkpoint.safetensors_file import tensor_places
from evovlm.recipes.checkpoint_files import (
    CARD_FILE,
    CONFIG_FILE,
    EVAL_RESULTS_FOLDER,
    INDEX_FILE,
    SINGLE_FILE,
    find_support_files,
    read_weight_map,
    refuse_outside,
)
from evovlm.recipes.model_config import read_model_json
from evovlm.recipes.yaml_text import read_yaml
from evovlm.runs.folder.layout import BEST_FILE, JOURNAL_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_MADE_BY_THE_HUB = frozenset({".gitattributes"})
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PERMISSIVE_RANK = 1
_UNAUTHORIZED, _FORBIDDEN, _CONFLICT = 401, 403, 409
_XET_SILENCE = "60s"
"""Xet storage answers an upload only after all its bytes have arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A folder that can be published: `files` with sizes in bytes, files that are left out, and warnings."""

    folder: Path
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    licence: str
    warnings: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())


def look_at_publication(folder: Path) -> Publication:
    """Check a checkpoint before it is published; nothing is sent.

    Config, tokenizer, card, recipe, licences, weights and scores in the hub's form are published, nothing else. Raises
    PickledWeights for pickles, BrokenCheckpoint for a folder that is not a complete safetensors checkpoint with a card.
    """
    if not folder.is_dir():
        raise BrokenCheckpoint(f"{folder}: does not exist. Name a folder that `evovlm merge --out` wrote.")
    if (folder / JOURNAL_FILE).is_file():
        raise BrokenCheckpoint(
            f"{folder}: is the folder of a run, not a checkpoint. Name the model in it, or write it first:\n"
            f"    evovlm merge {folder / BEST_FILE} --out MODEL"
        )
    there = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    names = {path.relative_to(folder).as_posix(): path for path in there}
    if pickles := [name for name in names if name.lower().endswith(_PICKLES)]:
        raise PickledWeights(
            f"{folder}: contains pickles ({', '.join(pickles[:3])}), which can run code when read; it is not "
            f"published.\n    `evovlm convert {folder} --out DIR` rewrites them as safetensors; or remove them."
        )
    support = find_support_files(folder)
    weights = {name: folder / name for name in _weights(folder)}
    scores = {name: path for name, path in names.items() if _is_scores(folder, name)}
    chosen = dict(sorted({**support.files, **weights, **scores}.items()))
    _check_whole(folder, chosen)
    return Publication(
        folder=folder,
        files={name: path.stat().st_size for name, path in chosen.items()},
        left_out=tuple(name for name in names if name not in chosen),
        licence=str(licence_of(folder)),
        warnings=(*_warnings(folder), *support.notes),
    )


def publish(publication: Publication, repo_id: str, *, private: bool) -> str:
    """Make the repository and send the files, the card last; return its address.

    Raises OutputExists for a repository with other content, OutputError with what the hub refused.
    """
    from huggingface_hub import HfApi, constants

    from evovlm.recipes.hub_client import HUB_ERRORS, ask_patiently, with_xet_or_http

    check_repo_id(repo_id)
    check_sending(repo_id)
    ask_patiently()
    hub = HfApi()
    patterns = [_escaped(name) for name in publication.files if name != CARD_FILE]
    weights = partial(
        hub.upload_folder,
        repo_id=repo_id,
        folder_path=publication.folder,
        allow_patterns=patterns,
        commit_message="Upload a model merged with evovlm",
    )
    card = partial(
        hub.upload_file,
        repo_id=repo_id,
        path_or_fileobj=publication.folder / CARD_FILE,
        path_in_repo=CARD_FILE,
        commit_message="Upload its model card",
    )
    try:
        _make_repository(hub, publication, repo_id, private=private)
        for upload in (weights, card):
            with_xet_or_http(upload, silence=_XET_SILENCE)
    except HUB_ERRORS as error:
        raise _explained(repo_id, error) from error
    return masked(f"{constants.ENDPOINT}/{repo_id}")


def check_repo_id(repo_id: str) -> None:
    """Raise OutputError for an invalid repository id."""
    if not _REPO_ID.fullmatch(repo_id):
        raise OutputError(f"'{repo_id}' is not a repository id. Write OWNER/NAME, such as my-name/my-merge.")


def check_sending(repo_id: str) -> None:
    """Raise OutputError when nothing can be sent to the hub: offline mode, or no token."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise OutputError(f"{repo_id}: offline mode is on, and nothing can be sent. Unset HF_HUB_OFFLINE.")
    if get_token() is None:
        raise OutputError(
            f"{repo_id}: not logged in to the hub ({constants.ENDPOINT}).\n"
            "    Run `hf auth login` with a token that may write, or set HF_TOKEN."
        )


def _weights(folder: Path) -> frozenset[str]:
    """Return the names of the weight files and their index. Raises BrokenCheckpoint for one missing or cut off."""
    if (folder / SINGLE_FILE).is_file():
        files = {SINGLE_FILE}
    elif (folder / INDEX_FILE).is_file():
        files = set(read_weight_map(folder / INDEX_FILE).values())
    else:
        raise BrokenCheckpoint(f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}. Name a complete model folder.")
    for name in sorted(files):
        if not (folder / name).is_file():
            raise BrokenCheckpoint(f"{folder}: {INDEX_FILE} names {name}, which does not exist. Merge the model again.")
        refuse_outside(folder / name, folder)
        # Reads the header, and compares it with the file's length.
        tensor_places(folder / name)
    return frozenset(files if SINGLE_FILE in files else {*files, INDEX_FILE})


def _is_scores(folder: Path, name: str) -> bool:
    """Whether a file holds scores that the hub shows. Raises BrokenCheckpoint when it should, and does not."""
    from huggingface_hub import parse_eval_result_entries

    path = folder / name
    if PurePosixPath(name).parent.as_posix() != EVAL_RESULTS_FOLDER or path.suffix != ".yaml":
        return False
    refuse_outside(path, folder)
    try:
        entries = read_yaml(path)
        if not isinstance(entries, list):
            raise TypeError("it is not a list of scores")
        parse_eval_result_entries(entries)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenCheckpoint(
            f"{path}: does not hold scores in the hub's form ({first_line(error)}).\n    Remove it, or write it again "
            "with `evovlm score --write hub=DIR`."
        ) from error
    return True


def _check_whole(folder: Path, chosen: Mapping[str, Path]) -> None:
    for name in (CONFIG_FILE, CARD_FILE):
        if name not in chosen:
            raise BrokenCheckpoint(f"{folder}: has no {name}. Publish a folder as `evovlm merge --out` writes it.")
    if not any(name in chosen for name in _TOKENIZERS):
        raise BrokenCheckpoint(f"{folder}: has no tokenizer ({', '.join(_TOKENIZERS)}). Merge the model again.")
    read_model_json(chosen[CONFIG_FILE])


def _warnings(folder: Path) -> Iterator[str]:
    """Yield what to know about the card's licence, with the card's reasons."""
    licence = licence_of(folder)
    if licence.id == UNKNOWN:
        yield "the card does not name a certain licence: ask the authors of the sources before you share it"
    elif licence.terms is None:
        yield f"the card's licence is '{licence}', which evovlm does not know: read it before you share the model"
    elif licence.terms.rank > _PERMISSIVE_RANK:
        yield f"the card's licence is {licence}: {licence.terms.why}"
    else:
        return
    text = (folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    section = text.partition("\n## Licence\n")[2].partition("\n#")[0]
    for line in section.splitlines():
        if line.startswith("- "):
            yield re.sub(r"\\(.)", r"\1", line.removeprefix("- "))


def _make_repository(hub: "HfApi", publication: Publication, repo_id: str, *, private: bool) -> None:
    """Create the repository, or find the one of an interrupted publication."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hub.create_repo(repo_id, private=private)
    except HfHubHTTPError as error:
        if error.response.status_code != _CONFLICT:
            raise
        there = set(hub.list_repo_files(repo_id)) - _MADE_BY_THE_HUB
        if CARD_FILE in there or not there <= set(publication.files):
            raise OutputExists(
                f"{repo_id} exists already on the hub and contains {', '.join(sorted(there)[:3])}, "
                "which is not overwritten.\n    Choose another name, or delete that repository yourself."
            ) from error


def _explained(repo_id: str, error: BaseException) -> OutputError:
    from huggingface_hub import constants

    from evovlm.recipes.hub_client import refusal

    where = f"{repo_id}: the hub ({constants.ENDPOINT})"
    why = refusal(error)
    if why.status == _UNAUTHORIZED:
        return OutputError(
            f"{where} does not accept the login.\n    Run `hf auth login` with a token that is valid and may write."
        )
    if why.status == _FORBIDDEN:
        return OutputError(
            f"{where} does not let you write there.\n    Check the owner in the id, and that the token may write "
            f"({constants.ENDPOINT}/settings/tokens)."
        )
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return OutputError(f"{where} refuses a file: {' '.join(str(error).split())}\n    Correct it, and push again.")
    return OutputError(
        f"{where} did not accept the upload: {why.reason}.\n"
        f"    {why.remedy} The same command continues where it stopped."
    )


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
