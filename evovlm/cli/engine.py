"""The option --engine of the commands that ask models."""

from typing import Annotated

import typer


def complete_engines(incomplete: str) -> list[str]:
    """Return the engines that begin with the text."""
    from evovlm.evaluation.engines.table import AUTO, ENGINES

    return [name for name in (AUTO, *ENGINES) if name.startswith(incomplete)]


EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="What answers: builtin, vllm, or auto (vllm where it is installed and a GPU is used).",
        autocompletion=complete_engines,
    ),
]
