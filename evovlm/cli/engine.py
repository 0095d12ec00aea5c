"""The options --engine and --tensor-parallel of the commands that ask models."""

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

TensorParallelOption = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel",
        min=1,
        max=1_024,
        help="With vllm: the number of GPUs over which each model is divided; 1 if it is left out.",
    ),
]
