"""The files of a checkpoint, as they are fetched from the hub, merged, converted and published."""

import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from evovlm.errors import BrokenCheckpoint
from evovlm.files import check_foreign, leads_outside
from evovlm.foreign_json import JsonObject, read_json

CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
EVAL_RESULTS_FOLDER = ".eval_results"
"""The folder of scores in a model's repository on the hub."""

TEXT_LIMIT_BYTES = 500_000_000
"""The largest file beside the weights: the largest published tokenizers have a tenth of it."""

# What loads and runs the model: config, tokenizer, processor, chat templates. No code, no weights.
_NEEDED = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.spm",
    "*.codes",
    "*.tokenizer",
    "*.tiktoken",
    "vocab.txt",
    "merges.txt",
)
# Card and texts; licences and notices also apply to derived models.
_TEXTS = (
    CARD_FILE,
    RECIPE_FILE,
    "*.txt",
    "LICENSE*",
    "LICENCE*",
    "License*",
    "NOTICE*",
    "Notice*",
    "USE_POLICY*",
)
# The index of the weights, and files of a training run.
_EXCLUDED = (
    "*.index.json",
    ADAPTER_CONFIG_FILE,
    "trainer_state.json",
    "training_args.json",
    "*_results.json",
    "requirements*.txt",
)
TEMPLATES_FOLDER = "additional_chat_templates"
"""The folder of further chat templates."""
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = (
    *_VOCABULARIES,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""What an adapter's folder may replace of its base's files."""
_POINTER = b"version https://git-lfs"
_LARGEST_POINTER = 1024
_TOKENIZER_MARKER = "tokenizer_config.json"


def support_names(names: Iterable[str]) -> list[str]:
    """Return the files of a checkpoint (paths inside it) that go with the weights, sorted.

    They are config, tokenizer, processor, chat templates, card, recipe and licences. A processor with several
    tokenizers keeps all but the first in separate folders; a folder with a config.json is another model, such as a
    checkpoint of the training.
    """
    everything = set(names)
    tokenizers = {
        folder
        for name in everything
        if PurePosixPath(name).name == _TOKENIZER_MARKER
        and _is_plain(folder := PurePosixPath(name).parent.as_posix())
        and f"{folder}/{CONFIG_FILE}" not in everything
    }
    return sorted(name for name in everything if _goes_along(PurePosixPath(name), tokenizers))


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportFiles:
    """The files of a folder that go with the weights, by name, and those left out because a link leads elsewhere."""

    files: Mapping[str, Path]
    left_out: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the files that are left out."""
        return tuple(f"{name} is left out: it is a link that leads out of the folder." for name in self.left_out)


def find_support_files(folder: Path) -> SupportFiles:
    """Return the files of a checkpoint folder that go with its weights.

    Raises BrokenCheckpoint for a link to nothing, and for a file that the model needs and that is a link out of the
    folder (see `leads_outside`).
    """
    found: dict[str, Path] = {}
    left_out = []
    for name in support_names(_names_in(folder)):
        path = folder / name
        if not path.exists():
            raise BrokenCheckpoint(f"{path}: is a link to a file that does not exist. Fetch the model again.")
        if leads_outside(path, folder) and not _matches(path.name, _NEEDED):
            left_out.append(name)
        elif path.is_file():
            refuse_outside(path, folder)
            found[name] = path
    return SupportFiles(files=found, left_out=tuple(left_out))


def host_files(host: Path) -> SupportFiles:
    """Return the files that a merged model takes from its host; card and recipe are written by the merge.

    Raises what `find_support_files` raises.
    """
    found = find_support_files(host)
    own = {CARD_FILE, RECIPE_FILE}
    return SupportFiles(
        files={name: path for name, path in found.files.items() if name not in own},
        left_out=tuple(name for name in found.left_out if name not in own),
    )


def tokenizer_files(folder: Path) -> Mapping[str, Path]:
    """Return the files of a tokenizer by name, nothing for a folder without a whole tokenizer.

    Raises BrokenCheckpoint for one that is a link out of the folder.
    """
    found = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not any(name in found for name in _VOCABULARIES):
        return {}
    for path in found.values():
        refuse_outside(path, folder)
    return found


def holds_adapter(names: Collection[str]) -> bool:
    """Whether files of these names make an adapter, not a whole model, which may also contain an adapter's config."""
    weights = (SINGLE_FILE, INDEX_FILE, SINGLE_PICKLE, PICKLE_INDEX)
    return ADAPTER_CONFIG_FILE in names and not any(name in names for name in weights)


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter and not a whole model."""
    # Most folders are models, whose files need not be listed.
    return (folder / ADAPTER_CONFIG_FILE).is_file() and holds_adapter({path.name for path in folder.iterdir()})


def refuse_odd_files(folder: Path) -> None:
    """Raise BrokenCheckpoint when a pipe, a device, a folder or a huge text has the name of a file of a model.

    Reading one would wait forever or fill the memory. Weights may have any size. Pointers of git-lfs, which take the
    place of large files in a clone, are named too.
    """
    for path in sorted(folder.iterdir()):
        is_weights = path.suffix == ".safetensors"
        if not is_weights and not _matches(path.name, (*_NEEDED, *_TEXTS)):
            continue
        try:
            state = path.stat()
            check_foreign(state, path, limit_bytes=sys.maxsize if is_weights else TEXT_LIMIT_BYTES)
            is_pointer = state.st_size < _LARGEST_POINTER and _starts_with(path, _POINTER)
        except FileNotFoundError:
            # A link to nothing: reading or copying it reports that.
            continue
        except OSError as error:
            raise BrokenCheckpoint(
                f"{path}: cannot be read: {error.strerror or error}.\n    Fetch the model again, or remove it."
            ) from error
        if is_pointer:
            raise BrokenCheckpoint(
                f"{path}: is a pointer of git-lfs; the file itself was not fetched.\n"
                "    Run `git lfs pull` in its folder, or fetch the model with `hf download`."
            )


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(start)) == start


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files, byte for byte, to their names in a new folder.

    Raises BrokenCheckpoint when one cannot be read, OSError when one cannot be written.
    """
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as written:
            try:
                source = path.open("rb")
            except OSError as error:
                raise BrokenCheckpoint(f"{path}: cannot be read ({error.strerror}).") from error
            with source:
                shutil.copyfileobj(source, written)


def refuse_outside(path: Path, folder: Path) -> None:
    """Raise BrokenCheckpoint for a file of a checkpoint folder that is a link out of the folder."""
    if leads_outside(path, folder):
        raise BrokenCheckpoint(
            f"{path}: is a link that leads out of the model's folder, and is not followed.\n"
            "    Put the file itself there."
        )


def _names_in(folder: Path) -> list[str]:
    """Return the files and links of a folder and of the folders in it, by their paths inside it."""
    children = list(folder.iterdir())
    inner = [path for child in children if child.is_dir() for path in child.iterdir()]
    return [path.relative_to(folder).as_posix() for path in (*children, *inner) if not path.is_dir()]


def _goes_along(path: PurePosixPath, tokenizers: Collection[str]) -> bool:
    inside = path.parent.as_posix()
    if inside == TEMPLATES_FOLDER:
        return path.suffix == ".jinja"
    if inside != "." and inside not in tokenizers:
        return False
    return _matches(path.name, (*_NEEDED, *_TEXTS)) and not _matches(path.name, _EXCLUDED)


def _is_plain(folder: str) -> bool:
    return folder != "." and "/" not in folder and not folder.startswith(".")


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_weight_map(index: Path) -> Mapping[str, str]:
    """Return which shard holds each tensor, as the index file says.

    Raises BrokenCheckpoint when the file cannot be read or names a shard outside its own folder.
    """
    refuse_outside(index, index.parent)
    try:
        weight_map = JsonObject.of(read_json(index, limit_bytes=TEXT_LIMIT_BYTES)).inside("weight_map")
        shards = {name: weight_map.text(name) for name in weight_map.values}
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{index}: cannot be read as the index of weights ({error}).") from error
    for shard in shards.values():
        path = PurePosixPath(shard)
        # An index is a stranger's text: it must not lead out of the checkpoint.
        if path.is_absolute() or ".." in path.parts or "\\" in shard or not path.name:
            raise BrokenCheckpoint(f"{index}: names the shard '{shard}', which is outside the checkpoint.")
    return shards
