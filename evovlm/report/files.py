"""The report as files: the page, and its figures as SVG and PNG."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evovlm.errors import ConfigError, OutputError, OutputExists
from evovlm.report.content import RunContent, RunsContent
from evovlm.report.drawing import Drawing, Pen, file_pen, japanese_font, png_file, style, svg_file
from evovlm.report.page import run_drawings
from evovlm.report.result_figures import bands_drawing
from evovlm.report.texts import speaker
from evovlm.runs.atomic import write_atomically

PAGE_FILE = "report.html"


def check_new(path: Path) -> None:
    """Raise OutputExists when the file or folder is there, ConfigError when there is no folder to hold it."""
    if path.exists():
        raise OutputExists(f"{path} exists already and is not overwritten.\n    Name another, or remove it.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}. Make it, or name another place.")


def write_page(path: Path, html: str) -> None:
    """Write a page, over an older one. Raises OutputError when that cannot be."""
    with _told(path):
        write_atomically(path, html)


def write_figures(folder: Path, content: RunContent | RunsContent, *, language: str) -> tuple[Path, ...]:
    """Draw every figure into the new `folder`, as SVG and as PNG, and return the files.

    A PNG has the glyphs of this machine's fonts: where none has Japanese, its words are English. Raises OutputExists
    when the folder is there, OutputError when it cannot be written.
    """
    check_new(folder)
    font = japanese_font()
    pen = file_pen(speaker(language))
    with _told(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        # Inside, so that what is left of it can be removed after the rename, as well as after an error.
        beside = Path(scratch) / folder.name
        beside.mkdir()
        with style(pen):
            names = _write_svgs(_drawings(content, pen), beside)
        painted = file_pen(speaker(png_language(language)))
        with style(painted, family=[font] if font else []):
            names += _write_pngs(_drawings(content, painted), beside)
        beside.rename(folder)
    return tuple(folder / name for name in names)


def png_language(language: str) -> str:
    """Return the language of a PNG's words: English where this machine has no font for Japanese."""
    return "en" if language == "ja" and japanese_font() is None else language


def _drawings(content: RunContent | RunsContent, pen: Pen) -> list[tuple[str, Drawing]]:
    if isinstance(content, RunContent):
        return run_drawings(content, pen)
    found = [("best-by-tokens", bands_drawing(content.bands, pen))] if content.bands else []
    for number, run in enumerate(content.runs, start=1):
        found += [(f"run{number}-{name}", drawing) for name, drawing in run_drawings(run, pen)]
    return found


def _write_svgs(drawings: Sequence[tuple[str, Drawing]], folder: Path) -> list[str]:
    for name, drawing in drawings:
        (folder / f"{_plain(name)}.svg").write_text(svg_file(drawing), encoding="utf-8")
    return [f"{_plain(name)}.svg" for name, _ in drawings]


def _write_pngs(drawings: Sequence[tuple[str, Drawing]], folder: Path) -> list[str]:
    for name, drawing in drawings:
        (folder / f"{_plain(name)}.png").write_bytes(png_file(drawing))
    return [f"{_plain(name)}.png" for name, _ in drawings]


def _plain(name: str) -> str:
    """Return a figure's name with nothing in it that means something to a file system: tasks are named by files."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error
