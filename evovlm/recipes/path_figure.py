"""A path through layers as an SVG: hops from left to right, the block's number upwards, a colour for each source."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

from evovlm.recipes.layer_path import LayerPath

SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b87f00", "#3a96cf", "#7a7a7a")
"""Okabe and Ito's palette, which people with any colour vision can distinguish.

Orange and sky blue are darker, so that they can be seen on white, and the last is grey instead of black.
"""

_STEP, _ROW, _LEFT, _TOP, _BELOW = 16, 10, 44, 34, 64
_SCALE_HEIGHT = 26.0


def path_svg(path: LayerPath) -> str:
    """Return the text of an SVG file: a dot for each hop, and under it a bar for its scale (downwards if negative)."""
    top_layer = max(step.layer for step in path.steps)
    height = _TOP + (top_layer + 1) * _ROW
    width = _LEFT + len(path) * _STEP + _STEP
    colours = {name: SERIES_COLOURS[number % len(SERIES_COLOURS)] for number, name in enumerate(path.sources)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(width, 260)} {height + _BELOW}" '
        'font-family="sans-serif" font-size="10">',
        f"<title>A path of {len(path)} hops</title>",
        *_legend(colours),
        *_axis(top_layer, height),
        *_hops(path, colours, height),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend(colours: dict[str, str]) -> Iterator[str]:
    left = _LEFT
    for name, colour in colours.items():
        yield f'<circle cx="{left}" cy="10" r="4" fill="{colour}"/>'
        yield f'<text x="{left + 8}" y="14">{escape(name)}</text>'
        left += 24 + 7 * len(name)


def _axis(top_layer: int, height: int) -> Iterator[str]:
    every = max(1, (top_layer + 1) // 8)
    for layer in range(0, top_layer + 1, every):
        yield f'<text x="{_LEFT - 14}" y="{_row(layer, height) + 3}" text-anchor="end">{layer}</text>'
    yield f'<text x="4" y="{height + _BELOW / 2 + 3:g}">scale</text>'


def _hops(path: LayerPath, colours: dict[str, str], height: int) -> Iterator[str]:
    largest = max(1.0, *(abs(step.scale) for step in path.steps))
    middle = height + _BELOW / 2
    points = " ".join(f"{_column(n)},{_row(step.layer, height)}" for n, step in enumerate(path.steps))
    yield f'<polyline points="{points}" fill="none" stroke="#bbbbbb"/>'
    for number, step in enumerate(path.steps):
        left, colour = _column(number), colours[step.source]
        length = _SCALE_HEIGHT * abs(step.scale) / largest
        top = middle - length if step.scale > 0 else middle
        yield f"<g><title>hop {number}: {escape(step.source)} {step.layer}, scale {step.scale:.4g}</title>"
        yield f'<circle cx="{left}" cy="{_row(step.layer, height)}" r="4" fill="{colour}"/>'
        yield f'<rect x="{left - 4}" y="{top:.2f}" width="8" height="{length:.2f}" fill="{colour}"/></g>'


def _column(number: int) -> int:
    return _LEFT + number * _STEP


def _row(layer: int, height: int) -> int:
    return height - layer * _ROW - _ROW // 2
