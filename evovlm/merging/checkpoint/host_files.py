"""Which of a host's files a merged model takes besides the weights: config, tokenizer, processor, chat templates."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from evovlm.errors import BrokenCheckpoint

# No code, no weights, no traces of a training run; licences and notices hold for the result too.
_COPIED = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.spm",
    "*.codes",
    "*.tokenizer",
    "*.tiktoken",
    "LICENSE*",
    "LICENCE*",
    "License*",
    "NOTICE*",
    "Notice*",
    "USE_POLICY*",
)
_NOT_COPIED = (
    "*.index.json",
    "adapter_config.json",
    "trainer_state.json",
    "training_args.json",
    "*_results.json",
    "requirements*.txt",
)
_TEMPLATES = "additional_chat_templates"


def copy_host_files(host: Path, folder: Path) -> None:
    """Copy the host's files, byte for byte; raises BrokenCheckpoint when one cannot be read, OSError for the rest."""
    for file in host_files(host):
        target = folder / file.relative_to(host)
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as written:
            try:
                source = file.open("rb")
            except OSError as error:
                raise BrokenCheckpoint(f"{file}: cannot be read ({error.strerror}).") from error
            with source:
                shutil.copyfileobj(source, written)


def host_files(host: Path) -> list[Path]:
    """Return the host's files to be copied, sorted; those in folders are chat templates and further tokenizers.

    Raises BrokenCheckpoint for a link that leads nowhere.
    """
    return sorted({*_files(host), *(host / _TEMPLATES).glob("*.jinja"), *_further_tokenizers(host)})


def _further_tokenizers(host: Path) -> Iterator[Path]:
    # A processor with several tokenizers keeps each but the first in a folder of its own; a folder with a config.json
    # is another model, such as a checkpoint of the training.
    for marker in host.glob("*/tokenizer_config.json"):
        if not marker.parent.name.startswith(".") and not (marker.parent / "config.json").exists():
            yield from _files(marker.parent)


def _files(folder: Path) -> Iterator[Path]:
    for path in {found for pattern in _COPIED for found in folder.glob(pattern)}:
        if any(path.match(pattern) for pattern in _NOT_COPIED):
            continue
        # Links are followed: the hub's cache holds nothing else.
        if not path.exists():
            raise BrokenCheckpoint(f"{path}: a link to a file that is not there; fetch the model again.")
        if path.is_file():
            yield path
