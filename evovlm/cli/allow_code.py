"""The option `--allow-code` of the commands that score answers."""

from collections.abc import Sequence
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


def announce_allowed(found: "Sequence[ForeignCode]", *, allow_code: bool) -> None:
    """Print which files the command is about to run. Raises CodeNotAllowed if there are some, but not the option."""
    from evovlm.foreign_code import require_allowed

    require_allowed(found, allow_code=allow_code)
    for each in dict.fromkeys(found):
        echo(f"running code: {each}", err=True)
