"""Values as text: scores, counts, sizes, durations, and text that is safe for a terminal."""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evovlm.texts.languages import ENGLISH, Say

if TYPE_CHECKING:
    from evovlm.merging.before.findings import ResultSize

# C0 and C1 controls, DEL, and the characters that change the direction of writing.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# A command to copy; one in backquotes is part of a sentence.
_COMMAND = re.compile("(?<!`)evovlm ")
# Not between a number and its Japanese unit.
_BLANK = re.compile("(?<![0-9]) | (?=[\x00-\x7f]|$)")
_BARS = "▁▂▃▄▅▆▇█"


def percent(value: float) -> str:
    """Return a score in [0, 1] in percent: 41.5."""
    return f"{100 * value:.1f}"


def counted(number: int, noun: str) -> str:
    """Return "1 generation", "2 generations"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def interval_text(low: float, high: float) -> str:
    """Return an interval of scores: `37.2 - 45.8`."""
    return f"{percent(low)} - {percent(high)}"


def spark_line(values: Sequence[float], *, low: float, high: float, width: int = 60) -> str:
    """Return one bar per value, between `low` and `high`; of more than `width` values, every n-th."""
    step = max(1, -(-len(values) // width))
    shown = values[::-1][::step][::-1]
    scale = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((value - low) / scale * len(_BARS)))] for value in shown)


def result_text(size: "ResultSize") -> str:
    """Return the size of a merged model: `26 blocks, 9.98 billion weights, 20.0 GB`, with "at most" for a bound."""
    from evovlm.merging.before.needs import gigabytes

    weights = (
        f"{size.n_parameters / 1e9:.2f} billion"
        if size.n_parameters >= 1e9
        else f"{size.n_parameters / 1e6:.2f} million"
    )
    at_most = "at most " if size.at_most else ""
    return f"{at_most}{size.n_blocks} blocks, {weights} weights, {gigabytes(size.size_bytes)}"


def duration(seconds: float, *, say: Say = ENGLISH) -> str:
    """Return a duration: `42 s`, `3:05 min`, `2:40 h`."""
    whole = round(seconds)
    if whole < 60:
        return say("duration_seconds", seconds=whole)
    if whole < 3600:
        return say("duration_minutes", minutes=whole // 60, seconds=f"{whole % 60:02d}")
    return say("duration_hours", hours=whole // 3600, minutes=f"{whole % 3600 // 60:02d}")


def without_controls(text: str) -> str:
    """Return the text without control characters (line ends and tabs stay), so that a terminal can show it."""
    return _CONTROLS.sub("", text)


def from_here(text: str) -> str:
    """Return a path inside the current folder as it is typed there, `./models/base`; any other text as it is."""
    here = f"{Path.cwd()}/"
    return f"./{text.removeprefix(here)}" if text.startswith(here) else text


def from_typed(text: str) -> str:
    """Return a text that was typed on a command line, with line ends where it has `\\n`."""
    return text.replace("\\n", "\n")


def as_typed(text: str) -> str:
    """Return a text as it is typed on a command line: in one line, with `\\n` for its line ends."""
    return text.replace("\n", "\\n")


def echo(text: str = "", *, err: bool = False, nl: bool = True, whole: bool = False) -> None:
    """Print a text, which may quote a file or a model, without control characters.

    A terminal gets lines that fit; with `whole`, such as for data, every line stays one line.
    """
    shown = without_controls(text)
    if not whole and (sys.stderr if err else sys.stdout).isatty():
        shown = in_lines(shown, width=shutil.get_terminal_size().columns)
    typer.echo(shown, err=err, nl=nl)


def in_lines(text: str, *, width: int) -> str:
    """Return a text wrapped between words at the width; lines with a command stay whole, to be copied."""
    if all(2 * len(line) < width for line in text.splitlines()):
        return text
    from rich.cells import cell_len

    lines: list[str] = []
    for line in text.split("\n"):
        if cell_len(line) < width or _COMMAND.search(line):
            lines.append(line)
            continue
        first, *words = _BLANK.split(line.lstrip(" "))
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines.append(indent + first)
        for word in words:
            if cell_len(lines[-1]) + 1 + cell_len(word) < width:
                lines[-1] += f" {word}"
            else:
                lines.append(indent + word)
    return "\n".join(lines)


def echo_json(value: object) -> None:
    """Print a value as one line of readable JSON, with control characters escaped."""
    text = json.dumps(value, ensure_ascii=False)
    echo(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text), whole=True)
