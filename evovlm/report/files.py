"""The report as files: the page, and its figures as SVG and PNG."""

from collections.abc import Sequence
from pathlib import Path

from evovlm.errors import OutputError
from evovlm.files import explained, new_folder, refuse_existing
from evovlm.report.content import RunContent, RunsContent
from evovlm.report.drawing import Drawing, Pen, file_pen, japanese_font, png_file, style, svg_file
from evovlm.report.page import run_drawings
from evovlm.report.result_figures import bands_drawing
from evovlm.texts.languages import speaker


def check_new(path: Path) -> None:
    """Raise OutputExists when the file or folder exists, OutputError when the folder to hold it does not."""
    refuse_existing(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist.\n    Make it, or choose another location.")


def write_figures(folder: Path, content: RunContent | RunsContent, *, language: str) -> tuple[Path, ...]:
    """Draw every figure into the new `folder`, as SVG and as PNG, and return the files.

    A PNG uses this machine's fonts: if none of them has Japanese, its words are English. Raises OutputExists
    when the folder is there, OutputError when it cannot be written.
    """
    check_new(folder)
    font = japanese_font()
    pen = file_pen(speaker(language))
    with new_folder(folder) as partial, explained(folder):
        with style(pen):
            names = _write_svgs(_drawings(content, pen), partial)
        painted = file_pen(speaker(png_language(language)))
        with style(painted, family=[font] if font else []):
            names += _write_pngs(_drawings(content, painted), partial)
    return tuple(folder / name for name in names)


def png_language(language: str) -> str:
    """Return the language of a PNG's words: English if this machine does not have a Japanese font."""
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
    """Return a figure's name without characters that have a meaning in file systems: tasks may be named by paths."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80]
