"""How figures look, and how they become SVG for the page (light, dark or printed) and files of their own.

On the page text is text, and the colours are the page's: a figure is drawn in stand-in colours, and each stand-in is
then replaced by a CSS variable. Figures are the same bytes each time.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evovlm.recipes.path_figure import SERIES_COLOURS
from evovlm.texts.languages import Say

WIDTH_IN = 4.8
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 1)))
_PNG_DPI = 200
_MOST_MARKERS = 15
_JAPANESE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Hiragino Sans",
    "Yu Gothic",
    "BIZ UDGothic",
    "Meiryo",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
    "VL Gothic",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours of text, muted text, grid lines, background and series (Okabe and Ito's, safe for the colour-blind)."""

    ink: str
    muted: str
    grid: str
    paper: str
    series: tuple[str, ...]

    def variables(self) -> Mapping[str, str]:
        """Return the colour of each CSS variable of the page."""
        series = {f"--series-{number}": colour for number, colour in enumerate(self.series)}
        return {"--ink": self.ink, "--muted": self.muted, "--grid": self.grid, "--paper": self.paper, **series}


LIGHT = Palette(
    ink="#1b1f24",
    muted="#5c6670",
    grid="#dfe3e8",
    paper="#ffffff",
    series=SERIES_COLOURS,
)
"""The colours of files, and of the page where it is not dark."""
_ON_PAGE = Palette(
    ink="#010203",
    muted="#010204",
    grid="#010205",
    paper="#010206",
    series=tuple(f"#0102{10 + number:02x}" for number in range(len(LIGHT.series))),
)
_VARIABLES: Mapping[str, str] = {colour: f"var({name})" for name, colour in _ON_PAGE.variables().items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """What a figure is drawn with: words and colours. `titled` says whether it carries its own title, as files do."""

    say: Say
    palette: Palette
    titled: bool

    def line(self, number: int, *, points: int = 1) -> Mapping[str, Any]:
        """Return colour, marker and dashes of a series of `points`; of many points, only some have a marker."""
        return {
            "markevery": max(1, points // _MOST_MARKERS),
            "color": self.palette.series[number % len(self.palette.series)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": DASHES[number % len(DASHES)],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """A figure with a text that describes it, and its table: headings, then rows."""

    key: str
    title: str
    alt: str
    figure: Figure
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def page_pen(say: Say) -> Pen:
    """Return the pen for figures on the page."""
    return Pen(say=say, palette=_ON_PAGE, titled=False)


def file_pen(say: Say) -> Pen:
    """Return the pen for figures in files."""
    return Pen(say=say, palette=LIGHT, titled=True)


@contextmanager
def style(pen: Pen, *, family: Sequence[str] = ()) -> Iterator[None]:
    """Set the style in which figures are drawn and saved; `family` names fonts to try before matplotlib's own."""
    palette = pen.palette
    # The type of the package lists every setting.
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "evovlm",
        "text.parse_math": False,
        "axes.unicode_minus": False,
        "font.family": [*family, "DejaVu Sans"],
        "font.size": 9.0,
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.edgecolor": palette.muted,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "grid.color": palette.grid,
        "grid.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none" if not pen.titled else palette.paper,
    }
    with mpl.rc_context(), warnings.catch_warnings():
        # A matplotlibrc in the current folder may ask for LaTeX, which runs programs on the texts of the figures.
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        # Glyphs that matplotlib's own font does not have are not a problem: the browser draws the text of an SVG with
        # its fonts. Nor are names so long that they leave no space for the axes: the table has them.
        warnings.filterwarnings("ignore", message="constrained_layout not applied", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def new_figure(pen: Pen, *, height_in: float, title: str) -> Figure:
    """Return an empty figure of the page's width."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    if pen.titled:
        figure.suptitle(title, fontsize=11)
    return figure


def legend(axes: Axes, *, columns: int = 2) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def inline_svg(drawing: Drawing, *, prefix: str) -> str:
    """Return a figure as an SVG element of the page; `prefix` keeps its ids apart from those of other figures."""
    text = _svg(drawing.figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A style element would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="([^"]+)"', text)
    opened = (
        f'<svg viewBox="{box[1] if box else ""}" role="img" aria-labelledby="{prefix}-title {prefix}-desc">'
        f'<title id="{prefix}-title">{escape(drawing.title)}</title>'
        f'<desc id="{prefix}-desc">{escape(drawing.alt)}</desc>'
    )
    return opened + text[text.index(">") + 1 :]


def svg_file(drawing: Drawing) -> str:
    """Return a figure as the text of an SVG file."""
    return _svg(drawing.figure)


def png_file(drawing: Drawing) -> bytes:
    """Return a figure as a PNG."""
    stream = io.BytesIO()
    drawing.figure.savefig(stream, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return stream.getvalue()


def japanese_font() -> str | None:
    """Return the name of a Japanese font on this machine, None if it does not have one."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _JAPANESE_FONTS if name in there), None)


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
