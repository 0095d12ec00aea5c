"""A recipe, shown to people: for a path, which block of which model is at each hop, and its scale."""

from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.cli.rendering import echo, echo_json

if TYPE_CHECKING:
    from rich.table import Table

    from evovlm.recipes.kinds import HybridMerge, Recipe
    from evovlm.recipes.layer_path import LayerPath, LayerPathMerge

_BAR_WIDTH = 16
_BAR_REACHES = 2.0


def show_recipe(file: Path, *, svg: Path | None, as_json: bool) -> None:
    """Print a recipe, and draw its path into the new file `svg`; raises ConfigError for a recipe without a path."""
    from evovlm.merging.arithmetic.methods import METHODS
    from evovlm.recipes.documents import load_recipe

    recipe = load_recipe(file, methods=METHODS)
    if svg is not None:
        write_path(recipe.path, svg, of=file)
    if as_json:
        echo_json(_as_json(recipe))
    elif recipe.path is None:
        from evovlm.recipes.writing import recipe_to_yaml

        echo(f"recipe {recipe.recipe_id}\n{recipe_to_yaml(recipe)}", nl=False, whole=True)
    else:
        _print_path(recipe)


def write_path(path: "LayerPath | None", svg: Path, *, of: Path) -> None:
    """Draw the path of the recipe or run `of` into the new file `svg`. Raises ConfigError where it has no path."""
    from evovlm.errors import ConfigError
    from evovlm.files import write_new_file
    from evovlm.recipes.path_figure import path_svg

    if path is None:
        raise ConfigError(f"{of}: a merge in parameter space has no path to draw; leave --svg out.")
    write_new_file(svg, path_svg(path))


def _as_json(recipe: "Recipe") -> dict[str, object]:
    found: dict[str, object] = {
        "recipe_id": recipe.recipe_id,
        "models": {part: ref.text for part, ref in recipe.models().items()},
    }
    if recipe.path is not None:
        found |= {"scale_target": recipe.scale_target, "path": recipe.path.canonical()}
    return found


def _print_path(recipe: "LayerPathMerge | HybridMerge") -> None:
    from rich.console import Console

    path = recipe.path
    echo(f"recipe {recipe.recipe_id}: {len(path)} hops through {len(path.blocks)} blocks, {_target(recipe)}")
    for part, ref in recipe.models().items():
        echo(f"  {part}: {ref.text}")
    Console().print(path_table(path))
    echo(_repeats(path))


def path_table(path: "LayerPath") -> "Table":
    """Return a path hop by hop; each block is in the column of its source, so that changes of source are visible."""
    from evovlm.cli.tables import plain_table

    table = plain_table()
    for heading in ("hop", *path.sources, "scale"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for number, step in enumerate(path.steps):
        cells = [str(step.layer) if name == step.source else "" for name in path.sources]
        table.add_row(str(number), *cells, f"{step.scale:.4g}", scale_bar(step.scale))
    return table


def _target(recipe: "LayerPathMerge | HybridMerge") -> str:
    return {
        "stream": "scales multiply the whole stream",
        "pending": "scales multiply what the hop before has not yet added",
    }[recipe.scale_target]


def scale_bar(scale: float) -> str:
    """Return a bar as long as the scale is large (full at 2), with a minus in front where it turns the sign."""
    filled = round(min(abs(scale), _BAR_REACHES) / _BAR_REACHES * _BAR_WIDTH)
    return f"{'-' if scale < 0 else ' '}{'█' * filled}{'>' if abs(scale) > _BAR_REACHES else ''}"


def _repeats(path: "LayerPath") -> str:
    repeated = len(path) - len(path.blocks)
    return f"{repeated} hops repeat a block" if repeated != 1 else "1 hop repeats a block"
