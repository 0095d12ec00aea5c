"""Pictures that lie in files or come encoded in a data set's rows."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.errors import TaskError
from evovlm.tasks.sample import ImageSource

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture in a file."""

    path: Path

    @property
    def key(self) -> str:
        """The file's path."""
        return str(self.path)

    def load(self) -> "Image.Image":
        """Read the picture as RGB. Raises TaskError when there is none."""
        return _decode(self.path, where=str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture in memory as the bytes of a file."""

    content: bytes
    where: str

    @property
    def key(self) -> str:
        """A hash of the bytes."""
        return hashlib.blake2b(self.content, digest_size=16).hexdigest()

    def load(self) -> "Image.Image":
        """Decode the picture as RGB. Raises TaskError when the bytes are no picture."""
        return _decode(io.BytesIO(self.content), where=self.where)


def picture_from_cell(cell: object, *, where: str) -> ImageSource:
    """Return the picture that a row's cell means: a path, or `{bytes, path}` as data sets of the hub have it.

    Raises TaskError, naming `where`, for anything else.
    """
    if isinstance(cell, (str, Path)):
        return PictureFile(path=Path(cell))
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        if isinstance(content, bytes):
            return EncodedPicture(content=content, where=where)
        if isinstance(path, str):
            return PictureFile(path=Path(path))
    raise TaskError(f"{where}: a picture should be a path or encoded bytes, and is a {type(cell).__name__}.")


def _decode(source: Path | io.BytesIO, *, where: str) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(source) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise TaskError(f"{where}: is not a readable picture ({error}).") from error
