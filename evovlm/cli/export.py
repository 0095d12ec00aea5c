"""`evovlm export RECIPE-or-RUN`: a candidate of a run as a recipe, or a recipe or run in another tool's format."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.completion import complete_picks
from evovlm.cli.rendering import echo, echo_json

if TYPE_CHECKING:
    from evovlm.recipes.kinds import Recipe


class Format(StrEnum):
    """The tool for which a recipe or a run is written."""

    MERGEKIT = "mergekit"
    OPTUNA = "optuna"


def export(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE-or-RUN", help="A recipe (YAML), or a run's folder.")],
    form: Annotated[
        Format | None,
        typer.Option("--format", help="The tool to write it for: mergekit (a recipe) or optuna (a run)."),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            help="Which candidate of a run: best, knee (of its Pareto front), rated, task=NAME, or its number.",
            autocompletion=complete_picks,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The new file to write; without it, a recipe is printed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take a candidate of a run as a recipe; write for other tools.

    A recipe is written for mergekit, a whole run as an Optuna study.
    """
    if form is Format.OPTUNA:
        _export_run(recipe, pick=pick, out=out, as_json=as_json)
        return
    from evovlm.cli.progress import Waiting

    with Waiting(f"reading {recipe}"):
        from evovlm.recipes.writing import recipe_to_yaml

        loaded, index = _recipe(recipe, pick=pick, form=form)
    text = _mergekit(loaded) if form is Format.MERGEKIT else recipe_to_yaml(loaded, folder=out.parent if out else None)
    if out is not None:
        from evovlm.files import write_new_file

        write_new_file(out, text)
    if as_json:
        result = {
            "recipe_id": loaded.recipe_id,
            "format": form.value if form is not None else None,
            "file": str(out) if out is not None else None,
            "text": text,
            **({} if index is None else {"candidate": index}),
        }
        echo_json(result)
    else:
        # A recipe's YAML is for files, too, and escapes what a terminal obeys.
        typer.echo(text if out is None else str(out), nl=out is not None)


def _export_run(run: Path, *, pick: str | None, out: Path | None, as_json: bool) -> None:
    from dataclasses import asdict

    from evovlm.cli.progress import Waiting
    from evovlm.errors import ConfigError
    from evovlm.runs.optuna_export import export_to_optuna

    if pick is not None:
        raise ConfigError("--pick takes one candidate, and an Optuna study holds them all: leave one of the two out.")
    if out is None:
        raise ConfigError("--out is missing: name the new file for the study, as in --out study.db.")
    with Waiting(f"writing {out}"):
        studies = export_to_optuna(run, out=out)
    if as_json:
        result = {"format": Format.OPTUNA.value, "file": str(out), "studies": [asdict(study) for study in studies]}
        echo_json(result)
        return
    for study in studies:
        echo(f"{out}: study {study.name}, {study.trials} trials ({study.failed} failed)")


def _recipe(path: Path, *, pick: str | None, form: Format | None) -> tuple["Recipe", int | None]:
    """Return the recipe in a file, or that of a run's candidate with its number."""
    from evovlm.errors import ConfigError
    from evovlm.merging.arithmetic.methods import METHODS
    from evovlm.recipes.documents import load_recipe

    if path.is_dir():
        from evovlm.runs.run import PICKS, Run

        if pick is None:
            raise ConfigError(f"{path} is a run's folder. Choose a candidate with --pick: {PICKS}.")
        picked = Run.open(path).pick(pick)
        return picked.recipe, picked.index
    if pick is not None:
        raise ConfigError(f"{path} is not a run's folder; --pick takes a candidate of a run.")
    if form is None:
        raise ConfigError(f"{path} is already a recipe. Choose a tool with --format ({', '.join(Format)}).")
    return load_recipe(path, methods=METHODS), None


def _mergekit(recipe: "Recipe") -> str:
    from evovlm.errors import ConfigError
    from evovlm.merging.paths.mergekit import path_to_mergekit
    from evovlm.recipes.mergekit.writing import recipe_to_mergekit
    from evovlm.recipes.model_ref import count_blocks, read_config

    if recipe.first_stage is not None:
        raise ConfigError("kind: mergekit merges in one step; merge and export the two stages of a hybrid one by one.")
    if recipe.path is not None:
        return path_to_mergekit(recipe)
    config = read_config(recipe.host)
    n_blocks = count_blocks(config) if config is not None else None
    if n_blocks is None:
        # Lists of numbers have one per unit; without lists, the number of blocks does not matter.
        n_blocks = max(recipe.unit_lengths(), default=3) - 2
    return recipe_to_mergekit(recipe, n_blocks=n_blocks)
