"""Pictures of every kind come out as RGB; those that cannot be read, or lie elsewhere, are named."""

import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evovlm.errors import TaskError
from evovlm.tasks.pictures import MOST_PIXELS, EncodedPicture, PictureFile, content_key, picture_from_cell

WHITE = (255, 255, 255)


def encoded(image: Image.Image, form: str, **options: object) -> EncodedPicture:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return EncodedPicture(content=buffer.getvalue(), where="set, row 1")


def corners(picture: EncodedPicture) -> tuple[object, object]:
    image = picture.load()
    assert image.mode == "RGB"
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))


def test_transparency_is_put_onto_white() -> None:
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    clear.putpixel((1, 1), (200, 0, 0, 255))
    assert corners(encoded(clear, "PNG")) == (WHITE, (200, 0, 0))
    grey = Image.new("LA", (2, 2), (0, 0))
    grey.putpixel((1, 1), (0, 255))
    assert corners(encoded(grey, "PNG")) == (WHITE, (0, 0, 0))


def test_palettes_are_looked_up_and_their_transparent_colour_is_white() -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((1, 1), 1)
    assert corners(encoded(picture, "PNG")) == ((10, 20, 30), (200, 100, 0))
    assert corners(encoded(picture, "PNG", transparency=0)) == (WHITE, (200, 100, 0))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_shades(form: str) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    shades = np.asarray(encoded(Image.fromarray(values), form).load())[:, :, 0]
    assert shades.tolist() == [[0, 100], [200, 255]]


def test_cmyk_becomes_the_same_colour() -> None:
    first, _ = corners(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert isinstance(first, tuple)
    assert first[0] > 200
    assert max(first[1:]) < 60


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    assert corners(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0] == (255, 0, 0)


def test_a_camera_s_rotation_is_carried_out() -> None:
    picture = Image.new("RGB", (4, 2), (0, 0, 0))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    turned = encoded(picture, "PNG", exif=exif).load()
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == WHITE


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has very many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_would_fill_the_memory_is_refused(side: int) -> None:
    assert side**2 > MOST_PIXELS
    with pytest.raises(TaskError, match=r"set, row 1: the picture has .*, and at most 89,478,485 pixels"):
        EncodedPicture(content=bomb(side, side), where="set, row 1").load()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_a_truncated_picture_is_an_error_that_names_it(form: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), form).content
    for kept in (0, 3, 20, len(content) // 2):
        path = tmp_path / f"{kept}.img"
        path.write_bytes(content[:kept])
        with pytest.raises(TaskError, match=rf"{kept}\.img: is not a readable picture"):
            PictureFile(path=path).load()


def test_a_picture_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    gone = PictureFile(path=tmp_path / "gone.png")
    with pytest.raises(TaskError, match=r"gone\.png: is not a readable picture"):
        gone.load()
    with pytest.raises(TaskError, match=r"gone\.png: cannot be read"):
        content_key(gone)


def test_a_path_is_found_inside_its_folder_only(tmp_path: Path) -> None:
    folder, outside = tmp_path / "set", tmp_path / "secret.png"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(outside)
    Image.new("RGB", (1, 1)).save(folder / "sub" / "a.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to(folder / "sub" / "a.png")
    for name in ("sub/a.png", "sub/../sub/a.png", "inner.png", str(folder / "sub" / "a.png")):
        assert picture_from_cell(name, folder=folder, where="row 1").load().size == (1, 1)
    for name in ("../secret.png", str(outside), "link.png", "sub/../../secret.png"):
        for cell in (name, {"bytes": None, "path": name}):
            with pytest.raises(TaskError, match=r"row 1: the picture .* is outside"):
                picture_from_cell(cell, folder=folder, where="row 1")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("absent.png", r"the picture .*absent\.png does not exist"),
        ("a\0b.png", "is not the path of a picture"),
        ("x" * 5000, r"no picture|not the path of a picture"),
        ("", "is empty"),
        ({"bytes": None, "path": None}, "is empty"),
        (7, "is a int"),
        ([], "is empty"),
    ],
)
def test_a_cell_that_is_not_a_picture_is_an_error(cell: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=f"row 1: .*{message}"):
        picture_from_cell(cell, folder=tmp_path, where="row 1")


def test_equal_pictures_share_their_content_wherever_they_lie(tmp_path: Path) -> None:
    picture = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG")
    (tmp_path / "a.png").write_bytes(picture.content)
    (tmp_path / "b.png").write_bytes(picture.content)
    first, second = PictureFile(path=tmp_path / "a.png"), PictureFile(path=tmp_path / "b.png")
    assert first.key != second.key
    assert content_key(first) == content_key(second) == content_key(picture)
    assert content_key(encoded(Image.new("RGB", (2, 2)), "PNG")) != content_key(picture)


def test_pipes_devices_and_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png", "x" * 5000 + ".png", "a\0.png", "~nouser/a.png"):
        with pytest.raises(TaskError, match=r"row 1: .*(the picture .* does not exist|is not the path of a picture)"):
            picture_from_cell(name, folder=tmp_path, where="row 1")
    with pytest.raises(TaskError, match="a folder, a pipe or a device"):
        PictureFile(path=tmp_path / "pipe.png").load()
    with pytest.raises(TaskError, match="a folder, a pipe or a device"):
        PictureFile(path=Path("/dev/zero")).load()
    with pytest.raises(TaskError, match="a folder, a pipe or a device"):
        content_key(PictureFile(path=tmp_path / "pipe.png"))


def test_a_picture_that_is_a_program_is_refused() -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(TaskError, match="is not a readable picture"):
        EncodedPicture(content=program, where="row 1").load()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA", "JPEG2000"])
def test_a_damaged_picture_is_read_or_refused(form: str) -> None:
    whole = bytearray(encoded(Image.new("RGB", (16, 16), (9, 99, 199)), form).content)
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = whole.copy()
        for place in random.integers(len(whole), size=4):
            damaged[place] = random.integers(256)
        with suppress(TaskError):
            assert EncodedPicture(content=bytes(damaged), where="row 1").load().mode == "RGB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has 0 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "its content is of no known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "its content is of no known format"),
        (b"%PDF-1.4\n%%EOF", "its content is of no known format"),
    ],
    ids=["empty", "a web page", "SVG", "PDF"],
)
def test_a_file_of_something_else_is_refused_in_words_that_stay_the_same(content: bytes, reason: str) -> None:
    found = []
    for _ in range(2):
        with pytest.raises(TaskError) as error:
            EncodedPicture(content=content, where="set, row 1").load()
        found.append(str(error.value))
    assert found[0].startswith(f"set, row 1: is not a readable picture ({reason}). Give an intact file")
    assert "0x" not in found[0]
    assert found[0] == found[1]


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "measured.tiff"
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(path)
    with pytest.raises(TaskError, match=r"measured\.tiff: is not a readable picture \(its pixels are floating-point"):
        PictureFile(path=path).load()


@pytest.mark.parametrize(
    ("mode", "form"), [("CMYK", "JPEG"), ("P", "GIF"), ("1", "PNG"), ("LA", "PNG"), ("LAB", "TIFF")]
)
def test_any_colours_are_read_as_rgb(mode: str, form: str) -> None:
    grey = Image.new("RGB", (1, 1), (128, 128, 128))
    # A palette of the web has steps of 51.
    low, high = (0, 255) if mode == "1" else (102, 154)
    (pixel,) = encoded(grey.convert(mode), form).load().get_flattened_data()
    assert all(low <= value <= high for value in pixel)
