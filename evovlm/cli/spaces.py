"""`evovlm spaces`: the table of search spaces, and the kinds of search that other packages add."""

import inspect
from typing import Annotated

import typer

from evovlm.cli.rendering import echo, json_text

_EXAMPLE_BLOCKS = 32


def spaces(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the search spaces, and how many numbers each searches for two sources and 32 blocks."""
    from evovlm.recipes.kinds import PathTemplate
    from evovlm.recipes.model_ref import ModelRef
    from evovlm.recipes.path_space import SCALES, PathSpace
    from evovlm.recipes.space_kinds import SPACES, search_space
    from evovlm.runs.config.kinds import BUILT_IN_KINDS, SEARCH_KINDS

    rows: list[dict[str, str | int | None]] = [
        {
            "name": name,
            "summary": " ".join([kind.summary, *(f"({each}: {number})" for each, number in kind.options.items())]),
            "dim_for_two_sources_of_32_blocks": search_space(name, ("a", "b"), _EXAMPLE_BLOCKS).dim,
        }
        for name, kind in SPACES.items()
    ]
    models = {name: ModelRef(text=name) for name in "ab"}
    template = PathTemplate(sources=models, host=models["a"], scale_target="pending")
    blocks = dict.fromkeys(models, _EXAMPLE_BLOCKS)
    paths = {name: PathSpace(template=template, blocks=blocks, scales=name) for name in SCALES}
    rows += [
        {
            "name": f"path, scales {name}",
            "summary": f"A path through layers, 3 repetitions: {SCALES[name].summary}.",
            "dim_for_two_sources_of_32_blocks": space.dim,
        }
        for name, space in paths.items()
    ]
    # How many numbers another kind of search has depends on its own config.
    rows += [
        {
            "name": f"merge.kind {name}",
            "summary": (inspect.getdoc(kind) or "").partition("\n")[0],
            "dim_for_two_sources_of_32_blocks": None,
        }
        for name, kind in SEARCH_KINDS.items()
        if name not in BUILT_IN_KINDS
    ]
    if as_json:
        echo(json_text(rows))
        return
    from rich.console import Console

    from evovlm.cli.tables import plain_table

    table = plain_table("space", "what it searches", "numbers (2 sources, 32 blocks)", apart=True)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    Console().print(table)
