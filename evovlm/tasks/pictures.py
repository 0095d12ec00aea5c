"""Pictures in files or encoded in a data set's rows, read as RGB from any stored format.

Transparent pixels become white, EXIF rotation is applied, 16-bit grey is reduced to 8 bits, and an animation is its
first frame.
"""

import hashlib
import io
import struct
import unicodedata
import warnings
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evovlm.errors import TaskError, first_line
from evovlm.files import leads_outside, read_foreign
from evovlm.tasks.sample import ImageSource

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 89_478_485
"""Larger pictures are refused. This is Pillow's limit: a small file may be crafted to fill the memory."""

_MOST_BYTES = 1_000_000_000
_BRIGHTEST = 255
# Errors that Pillow's decoders raise for broken files; UnidentifiedImageError is an OSError, NotImplementedError a
# RuntimeError, IndexError and KeyError are LookupErrors, OverflowError and ZeroDivisionError ArithmeticErrors.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
)
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".gif", ".bmp", ".tif", ".tiff")
# What follows the length of the first box: the kinds of HEIF that hold a picture compressed as HEVC.
_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
# Pillow starts Ghostscript, which runs the file as a program.
_PROGRAMS = frozenset({"EPS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """A picture in a file."""

    path: Path

    @property
    def key(self) -> str:
        """The file's path."""
        return str(self.path)

    def load(self) -> "Image.Image":
        """Read the picture as RGB. Raises TaskError when it is missing or cannot be read."""
        try:
            content = read_foreign(self.path, limit_bytes=_MOST_BYTES)
        except OSError as error:
            reason = error.strerror or error
            raise TaskError(f"{self.path}: is not a readable picture ({reason}). Give an intact file.") from error
        return _decode(content, where=str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture in memory as the bytes of a file."""

    content: bytes
    where: str

    @property
    def key(self) -> str:
        """A hash of the bytes."""
        return _hash(self.content)

    def load(self) -> "Image.Image":
        """Decode the picture as RGB. Raises TaskError when the bytes are not a picture."""
        return _decode(self.content, where=self.where)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPicture:
    """A picture in a table of `datasets`, which stays on disk: the `position`-th of row `index` if cells are lists.

    A picture that the table names by its path must be inside `folder`.
    """

    table: Any
    index: int
    column: str
    position: int | None
    where: str
    folder: Path

    @property
    def key(self) -> str:
        """Its position in the table."""
        return f"{self.where}, {self.column} {self.position or 0}"

    def load(self) -> "Image.Image":
        """Read and decode the picture as RGB. Raises TaskError when it cannot be read."""
        return self.source().load()

    def source(self) -> ImageSource:
        """Fetch it from the table. Raises TaskError for a cell without a picture."""
        import pyarrow  # type: ignore[import-untyped]

        try:
            (row,) = self.table.with_format("arrow").select_columns([self.column])[[self.index]].to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise TaskError(f"{self.where}, {self.column}: cannot be read ({first_line(error)}).") from error
        cell = row[self.column] if self.position is None else row[self.column][self.position]
        return picture_from_cell(cell, folder=self.folder, where=f"{self.where}, {self.column}")


def picture_from_cell(cell: object, *, folder: Path | None, where: str) -> ImageSource:
    """Return the picture in a row's cell: a path inside `folder`, or `{bytes, path}` as in data sets of the hub.

    Raises TaskError, naming `where`, for anything else, for a path outside `folder`, and for a missing file.
    """
    if isinstance(cell, StoredPicture):
        return cell
    if isinstance(cell, dict):
        content = cell.get("bytes")
        if isinstance(content, bytes):
            return EncodedPicture(content=content, where=where)
        cell = cell.get("path")
    if isinstance(cell, str) and cell and folder is not None:
        return PictureFile(path=_file_inside(folder, cell, where=where))
    raise TaskError(
        f"{where}: a picture should be the path of a file, or encoded bytes, and is "
        f"{'empty' if not cell else 'a ' + type(cell).__name__}."
    )


def content_key(picture: ImageSource) -> str:
    """Return a name that equal pictures share, wherever they are stored: a hash of the bytes, or the picture's key.

    Raises TaskError when the picture cannot be read.
    """
    if isinstance(picture, StoredPicture):
        return content_key(picture.source())
    if isinstance(picture, PictureFile):
        try:
            return _hash(read_foreign(picture.path, limit_bytes=_MOST_BYTES))
        except OSError as error:
            raise TaskError(f"{picture.path}: cannot be read ({error}). Give an intact picture.") from error
    return picture.key


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def picture_path(name: str, *, folder: Path, where: str) -> Path:
    """Return the path of a picture that a row names, whether or not it exists.

    Raises TaskError, naming `where`, for a path outside `folder` and for a text that cannot be a path.
    """
    path = folder / name
    try:
        # Raises ValueError for a zero character.
        is_inside = not leads_outside(path, folder)
    except (OSError, ValueError) as error:
        raise TaskError(f"{where}: {name[:80]!r} is not the path of a picture ({error}).") from error
    if not is_inside:
        raise TaskError(
            f"{where}: the picture {name!r} is outside {folder}, and a data set may name only files inside its own "
            "folder. Copy the picture there and give its path relative to that folder."
        )
    return path


def _file_inside(folder: Path, name: str, *, where: str) -> Path:
    path = picture_path(name, folder=folder, where=where)
    try:
        is_there = path.is_file()
    except OSError as error:
        raise TaskError(f"{where}: {name[:80]!r} is not the path of a picture ({error}).") from error
    if not is_there:
        near = _alike(path)
        hint = f"Did you mean '{near}'?" if near is not None else "Put it there, or correct its name."
        raise TaskError(f"{where}: the picture {path} does not exist. {hint}")
    return path


def _alike(path: Path) -> str | None:
    """Return the name of a file beside `path` that differs in case, ending or the form of its characters only."""
    try:
        names = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return None
    # macOS stores voiced kana in two characters.
    wanted = unicodedata.normalize("NFKC", path.name).casefold()
    plain = {unicodedata.normalize("NFKC", name).casefold(): name for name in names}
    stems = {Path(name).stem: original for name, original in plain.items() if Path(name).suffix in _PICTURE_ENDINGS}
    return plain.get(wanted) or stems.get(Path(wanted).stem)


def _decode(content: bytes, *, where: str) -> "Image.Image":
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise TaskError(f"{where}: is not a readable picture (it has 0 bytes). Give an intact file.")
    Image.init()
    if content[4:12] in _HEIC:
        _learn_heic(where)
    try:
        with warnings.catch_warnings():
            # The limit below replaces Pillow's warning about large pictures; broken EXIF data does not matter here.
            warnings.simplefilter("ignore")
            with Image.open(
                io.BytesIO(content), formats=[each for each in Image.ID if each not in _PROGRAMS]
            ) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise _too_large(where, f"{picture.width} x {picture.height} pixels")
                return _as_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise _too_large(where, "far too many pixels") from error
    except _UNREADABLE as error:
        kind = "HEIC picture" if content[4:12] in _HEIC else "picture"
        # Pillow's own words name an object in memory.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its content is of no known format" if unknown else first_line(error)
        raise TaskError(
            f"{where}: is not a readable {kind} ({reason}). Give an intact file, such as PNG or JPEG."
        ) from error


def _learn_heic(where: str) -> None:
    """Have Pillow read HEIC pictures. Raises TaskError without the package for them."""
    if find_spec("pillow_heif") is None:
        raise TaskError(
            f"{where}: is a HEIC picture, as iPhones save them, and reading it needs the package pillow-heif.\n"
            "    Install the extra: pip install 'evovlm[heic]'; or save the picture as JPEG."
        )
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


def _too_large(where: str, size: str) -> TaskError:
    return TaskError(
        f"{where}: the picture has {size}, and at most {MOST_PIXELS:,} pixels are read, so that no file can fill the "
        "memory. Scale it down."
    )


def _as_rgb(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    if picture.mode.startswith("I"):
        # Pillow would clip values above 255, which makes 16-bit pictures white.
        grey = np.asarray(picture).astype(np.int64)
        bright = grey.max(initial=0) > _BRIGHTEST
        return Image.fromarray((grey // 257 if bright else grey).clip(0, _BRIGHTEST).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; save it with 8 bits a channel")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
