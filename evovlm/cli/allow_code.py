"""The option `--allow-code` of the commands that score answers."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo

if TYPE_CHECKING:
    from evovlm.foreign_code import ForeignCode

AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Allow the named metric scripts and lm_eval task files to run their code; read it first."
    ),
]


def announce(found: "Iterable[ForeignCode]") -> None:
    """Print which files the command is about to run."""

    for each in dict.fromkeys(found):
        echo(f"running code: {each}", err=True)
