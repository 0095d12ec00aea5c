"""How every table looks: a line under its headings, nothing around it, and its title in a line of its own above."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evovlm.cli.rendering import without_controls


def plain_table(*headings: str, gap: int = 1, apart: bool = False) -> Table:
    """Return an empty table; between columns are `gap` spaces and one, between rows that are `apart` an empty line."""
    return Table(*headings, box=SIMPLE_HEAD, padding=(0, gap, int(apart), 0))


def print_line(console: Console, text: str) -> None:
    """Print one line as it is: no markup, no commands to the terminal, not broken."""
    console.print(without_controls(text), markup=False, highlight=False, soft_wrap=True)
