"""The files of a model that its result takes besides the weights: config, tokenizer, processor, chat templates."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from evovlm.errors import BrokenCheckpoint
from evovlm.recipes.checkpoint_files import CARD_FILE, RECIPE_FILE, SupportFiles, find_support_files


def host_files(host: Path) -> SupportFiles:
    """Return the files that a merged model takes from its host; the result has a card and a recipe of its own.

    Raises what `find_support_files` raises.
    """
    found = find_support_files(host)
    own = {CARD_FILE, RECIPE_FILE}
    return SupportFiles(
        files={name: path for name, path in found.files.items() if name not in own},
        left_out=tuple(name for name in found.left_out if name not in own),
    )


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
