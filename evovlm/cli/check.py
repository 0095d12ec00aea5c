"""`evovlm check RECIPE-or-CONFIG`: will this merge or search work? Answered before any weights are fetched."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.engine import EngineOption, TensorParallelOption
from evovlm.cli.evolve import Sources
from evovlm.cli.memory_lines import memory_lines
from evovlm.cli.rendering import echo_json, from_here

if TYPE_CHECKING:
    from rich.console import Console

    from evovlm.merging.before.findings import ModelReport, Preflight
    from evovlm.merging.before.needs import Needs
    from evovlm.recipes.kinds import Recipe
    from evovlm.runs.config.hybrid import HybridConfig
    from evovlm.runs.config.search import SearchConfig

FAILED = 2
"""The exit code for problems that the user can fix, as in every command."""


def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe or the config of a search (YAML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of the result, to check that there is enough space.")
    ] = None,
    source: Sources = None,
    near_pictures: Annotated[
        str | None,
        typer.Option(
            "--near-pictures",
            help="For a search: list pictures that this open_clip model finds similar to pictures of the report split.",
        ),
    ] = None,
    near_threshold: Annotated[
        float | None,
        typer.Option(
            "--near-threshold", min=-1, max=1, help="The cosine from which pictures count as similar; default 0.95."
        ),
    ] = None,
    engine: EngineOption = None,
    tensor_parallel: TensorParallelOption = None,
    gpu_gb: Annotated[
        float | None,
        typer.Option("--gpu", min=0.1, max=100_000, help="For a search: count memory for a GPU of this size."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Report every problem of a merge or a search before it starts.

    Also what it needs: disk, memory, downloads. No weights are fetched.
    """
    from evovlm.cli.progress import Waiting

    with Waiting("reading configs, tokenizers and headers"):
        found = _look(
            recipe,
            out=out,
            sources=source or [],
            engine=engine,
            tensor_parallel=tensor_parallel,
            gpu_bytes=None if gpu_gb is None else int(gpu_gb * 1e9),
            near_pictures=near_pictures,
            near_threshold=near_threshold,
        )
    if as_json:
        echo_json(found.as_json())
    else:
        from rich.console import Console

        _print(Console(), found)
    if found.problems:
        raise typer.Exit(FAILED)


def _look(
    path: Path,
    *,
    out: Path | None,
    sources: Sequence[str],
    engine: str | None,
    tensor_parallel: int | None,
    gpu_bytes: int | None,
    near_pictures: str | None,
    near_threshold: float | None,
) -> "Preflight":
    from dataclasses import replace

    from evovlm.errors import ConfigError
    from evovlm.evaluation.loadable import scoring_problems
    from evovlm.recipes.yaml_text import read_yaml

    document = read_yaml(path)
    # A recipe, too, may be a hybrid; only a search has tasks.
    if isinstance(document, Mapping) and (document.get("kind") == "evolve" or "tasks" in document):
        from evovlm.runs.before.preflight import preflight_search
        from evovlm.runs.config.hybrid import parse_sources, search_from_text

        config = search_from_text(document, path, sources=parse_sources(sources))
        config = config.with_engine(engine, tensor_parallel=tensor_parallel)
        config = config.resolved(relative_to=path.parent)
        config = config.guarded(near_pictures=near_pictures, threshold=near_threshold)
        recipes = [stage.template(relative_to=None).first_recipe() for stage in config.stages.values()]
        found = _with_hosts(preflight_search(config, out=out, gpu_bytes=gpu_bytes), recipes)
        unscored = {str(each): each for recipe in recipes for each in scoring_problems(recipe)}
        return _with_code(replace(found, problems=(*found.problems, *unscored.values())), config)
    if near_pictures is not None or near_threshold is not None:
        raise ConfigError(
            f"{path}: is not the config of a search, so it does not have pictures to compare.\n"
            "    Leave out --near-pictures and --near-threshold."
        )
    if gpu_bytes is not None:
        raise ConfigError(f"{path}: is not the config of a search, and --gpu is for searches. Leave out --gpu.")
    if sources:
        raise ConfigError(
            f"{path}: is not the config of a search, and --source is for searches. Name the model in the file itself."
        )
    for option, value in (("--engine", engine), ("--tensor-parallel", tensor_parallel)):
        if value is not None:
            raise ConfigError(f"{path}: is not the config of a search, so no engine answers.\n    Leave out {option}.")
    return _look_at_recipe(document, path, out=out)


def _look_at_recipe(document: object, path: Path, *, out: Path | None) -> "Preflight":
    from dataclasses import replace

    from evovlm.evaluation.loadable import scoring_problems
    from evovlm.merging.arithmetic.methods import METHODS
    from evovlm.merging.before.preflight import preflight_recipe
    from evovlm.recipes.documents import recipe_from_text

    notes: list[str] = []
    loaded = recipe_from_text(document, path, methods=METHODS, on_note=notes.append)
    found = _with_hosts(preflight_recipe(loaded, out=out), [loaded])
    to_note = map(str, scoring_problems(loaded))
    return replace(found, warnings=(*notes, *found.warnings, *to_note))


def _with_hosts(found: "Preflight", recipes: "Sequence[Recipe]") -> "Preflight":
    """Return the findings with the reasons why a host does not load, which other problems would explain already."""
    from dataclasses import replace

    from evovlm.evaluation.loadable import host_problems

    if found.problems:
        return found
    problems = {str(each): each for recipe in recipes for each in host_problems(recipe)}
    return replace(found, problems=tuple(problems.values()))


def _with_code(found: "Preflight", config: "SearchConfig | HybridConfig") -> "Preflight":
    """Return the findings with a warning for each file that the search would run, and each task not looked into."""
    from dataclasses import replace

    from evovlm.errors import EvovlmError
    from evovlm.tasks.catalogue import code_of_tasks
    from evovlm.tasks.harness_name import HarnessName, is_harness_name

    warnings: list[str] = []
    for name in dict.fromkeys(task.name for stage in config.stages.values() for task in stage.tasks):
        try:
            code = code_of_tasks([name])
        except EvovlmError as error:
            return replace(found, problems=tuple({str(each): each for each in (*found.problems, error)}.values()))
        warnings += [f"this search runs code: {each}; read it, then pass --allow-code to evolve" for each in code]
        if is_harness_name(name) and HarnessName.parse(name).file is None:
            warnings.append(f"{name}: not checked, because that would run the harness's code")
    return replace(found, warnings=(*found.warnings, *warnings))


def _print_models(console: "Console", models: "Sequence[ModelReport]") -> None:
    from evovlm.cli.tables import cell, plain_table, print_line
    from evovlm.merging.before.needs import gigabytes

    # A terminal has 80 columns; the models themselves are named below the table.
    table = plain_table(gap=0)
    for heading in ("part", "type", "blocks x hidden", "rows", "dtype", "licence", "size"):
        folds = heading in ("part", "licence")
        wraps = folds or heading == "blocks x hidden"
        # "apache-2.0" in one piece.
        table.add_column(heading, overflow="fold", no_wrap=not wraps, min_width=10 if folds else None)
    for model in models:
        kinds = dict.fromkeys((model.model_type, model.text_model_type))
        table.add_row(
            model.name,
            cell("\n".join(kinds)),
            f"{model.n_blocks} x {model.hidden_size}",
            str(model.vocabulary_rows),
            cell(model.dtype),
            cell(model.licence),
            gigabytes(model.size_bytes),
        )
    console.print(table)
    for text in dict.fromkeys(model.text for model in models):
        same = [model for model in models if model.text == text]
        parts = ", ".join(model.name for model in same)
        print_line(console, f"{parts}: {from_here(text)}, {same[0].recognised}")


def _print(console: "Console", found: "Preflight") -> None:
    from evovlm.cli.rendering import counted, result_text
    from evovlm.cli.tables import print_line

    if found.models:
        _print_models(console, found.models)
    if found.result is not None:
        print_line(console, f"the result: {result_text(found.result)}")
    if found.search is not None:
        size = found.search
        picked = f" ({size.categorical} of them choose among options)" if size.categorical else ""
        held = ""
        if size.generations is not None:
            held = f", {counted(size.generations, 'generation')} in the budget"
        print_line(console, f"the search: {size.genes} genes{picked}, {size.population} candidates a generation{held}")
    if found.needs is not None:
        _print_needs(console, found, found.needs)
    for reason in found.licence.reasons:
        print_line(console, f"licence: {reason}")
    for note in found.notes:
        print_line(console, f"note: {note}")
    for warning in found.warnings:
        print_line(console, f"warning: {warning}")
    for problem in found.problems:
        print_line(console, f"error: {problem}")
    if not found.problems:
        print_line(console, "no other problems found." if found.warnings else "no problems found.")


def _print_needs(console: "Console", found: "Preflight", needs: "Needs") -> None:
    from evovlm.cli.tables import print_line
    from evovlm.merging.before.needs import gigabytes

    to_write = "to write, at most" if found.result is not None and found.result.at_most else "to write"
    amounts = [
        ("to fetch", needs.download_bytes, needs.cache_free_bytes),
        (to_write, needs.result_bytes + needs.meanwhile_bytes, needs.free_bytes),
    ]
    if found.memory is None:
        amounts.append(("memory, about", needs.memory_bytes, needs.memory_available_bytes))
    for what, needed, free in amounts:
        there = "" if free is None else f" ({gigabytes(free)} free)"
        print_line(console, f"{what}: {gigabytes(needed)}{there}")
    for line in memory_lines(found.memory) if found.memory is not None else ():
        print_line(console, line)
