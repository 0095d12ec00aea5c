"""`evovlm spaces`: the table of search spaces, and the kinds of search that other packages add."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, TypeAlias

import typer

from evovlm.cli.rendering import echo_json

_EXAMPLE_BLOCKS = 32

_Row: TypeAlias = Mapping[str, str | int | None]


def spaces(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the search spaces. Each with how many numbers it searches for two sources and 32 blocks."""
    rows = [*_ties(), *_paths(), *_added_kinds()]
    if as_json:
        echo_json(rows)
        return
    from rich.console import Console

    from evovlm.cli.tables import plain_table

    table = plain_table("space", "what it searches", "numbers (2 sources, 32 blocks)", apart=True)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    Console().print(table)


def _ties() -> Iterator[_Row]:
    from evovlm.recipes.space_kinds import SPACES, search_space

    for name, kind in SPACES.items():
        options = (f"({each}: {number})" for each, number in kind.options.items())
        dim = search_space(name, ("a", "b"), _EXAMPLE_BLOCKS).dim
        yield _row(name, " ".join([kind.summary, *options]), dim)


def _paths() -> Iterator[_Row]:
    from evovlm.recipes.kinds import PathTemplate
    from evovlm.recipes.model_ref import ModelRef
    from evovlm.recipes.path_space import SCALES, PathSpace

    models = {name: ModelRef(text=name) for name in "ab"}
    template = PathTemplate(sources=models, host=models["a"], scale_target="pending")
    blocks = dict.fromkeys(models, _EXAMPLE_BLOCKS)
    for name, rule in SCALES.items():
        dim = PathSpace(template=template, blocks=blocks, scales=name).dim
        yield _row(f"path, scales {name}", f"A path through layers, 3 repetitions: {rule.summary}.", dim)


def _added_kinds() -> Iterator[_Row]:
    from evovlm.runs.config.kinds import BUILT_IN_KINDS, SEARCH_KINDS

    for name, kind in SEARCH_KINDS.items():
        if name not in BUILT_IN_KINDS:
            # How many numbers it searches depends on its own config.
            yield _row(f"merge.kind {name}", (inspect.getdoc(kind) or "").partition("\n")[0], None)


def _row(name: str, summary: str, dim: int | None) -> _Row:
    return {"name": name, "summary": summary, "dim_for_two_sources_of_32_blocks": dim}
