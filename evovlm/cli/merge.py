"""`evovlm merge RECIPE --out DIR`: write the model that a recipe describes."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="The new folder to write the model to.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge models as a recipe says, into a folder that transformers loads."""
    from evovlm.merging.methods import METHODS
    from evovlm.merging.preflight import preflight
    from evovlm.merging.writer import write_checkpoint
    from evovlm.recipes.documents import load_recipe

    loaded = load_recipe(recipe, methods=METHODS)
    # Models that do not fit are refused before their weights are fetched.
    preflight(loaded, out=out).raise_problems()
    written = write_checkpoint(loaded, out)
    for warning in written.warnings:
        typer.echo(f"warning: {warning}", file=sys.stderr)
    if as_json:
        result = {
            "folder": str(written.folder),
            "recipe_id": written.recipe_id,
            "n_merged": written.n_merged,
            "n_copied": written.n_copied,
            "size_bytes": written.size_bytes,
            "warnings": list(written.warnings),
        }
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo(
        f"{written.folder}\n"
        f"  recipe {written.recipe_id}: {written.n_merged} tensors merged, {written.n_copied} copied from the host, "
        f"{written.size_bytes / 1e6:.1f} MB"
    )
