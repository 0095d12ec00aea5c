"""`evovlm score MODEL --task T`: how good a model is at one or more tasks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evovlm.evaluation.answering import ScoredTask
    from evovlm.models.loading import LoadedModel
    from evovlm.recipes.candidate import TaskScore


def score(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, zoo:NAME, or a recipe (YAML).")],
    task: Annotated[
        list[str], typer.Option("--task", "-t", help="A task (`evovlm tasks` lists them); may be repeated.")
    ],
    split: Annotated[str, typer.Option("--split", help="search or report.")] = "report",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first samples.")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="TASK=PATH: read a task's data from there.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    save: Annotated[Path | None, typer.Option("--save", help="Write every answer to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a model on the report split of one or more tasks."""
    from evovlm.errors import OutputExists
    from evovlm.evaluation.answering import TaskChoice, score_model
    from evovlm.tasks.task import parse_split

    places = _places(data or [], task)
    choices = [TaskChoice(name=name, limit=limit, data=places.get(name)) for name in task]
    chosen = parse_split(split)
    for choice in choices:
        choice.check(chosen)
    if save is not None and save.exists():
        raise OutputExists(f"{save} exists already and is not overwritten. Name another file.")
    scored = score_model(_load(model, device), tasks=choices, split=chosen)
    if save is not None:
        _save(save, scored)
    if as_json:
        typer.echo(json.dumps({each.task.name: _as_json(each) for each in scored}, ensure_ascii=False))
        return
    _print(model, split, scored)


def _load(model: str, device: str) -> "LoadedModel":
    from evovlm.evaluation.resident_path import load_recipe_model
    from evovlm.merging.methods import METHODS
    from evovlm.models.loading import load_model
    from evovlm.recipes.documents import load_recipe
    from evovlm.recipes.model_ref import parse_model_ref

    if Path(model).suffix in (".yaml", ".yml") and Path(model).is_file():
        return load_recipe_model(load_recipe(Path(model), methods=METHODS), device=device)
    return load_model(parse_model_ref(model, relative_to=None).resolve(), device=device)


def _places(data: list[str], tasks: list[str]) -> dict[str, Path]:
    from evovlm.errors import TaskError

    places: dict[str, Path] = {}
    for entry in data:
        name, sign, path = entry.partition("=")
        if not sign or name not in tasks:
            raise TaskError(f"--data {entry}: write TASK=PATH with a task that is scored ({', '.join(tasks)}).")
        places[name] = Path(path)
    return places


def _as_json(scored: "ScoredTask") -> dict[str, object]:
    from evovlm.evaluation.intervals import mean_interval

    def figures(score: "TaskScore") -> dict[str, object]:
        return {
            "score": score.score,
            "interval": list(mean_interval(score.per_sample)),
            "ungated": score.ungated,
            "japanese": score.japanese,
            "n": score.n,
        }

    tags = {tag: figures(found) for tag in scored.tags if (found := scored.tagged(tag)) is not None}
    return {**figures(scored.score), "tags": tags, "tokens": scored.tokens, "seconds": dict(scored.seconds)}


def _print(model: str, split: str, scored: tuple["ScoredTask", ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from evovlm.evaluation.intervals import mean_interval

    table = Table(title=f"{model}, {split} split", title_justify="left")
    table.add_column("task")
    for heading in ("score", "95 % interval", "ungated", "Japanese", "samples"):
        table.add_column(heading, justify="right")
    for each in scored:
        rows = [(each.task.name, each.score)]
        rows += [(f"  {tag}", found) for tag in each.tags if (found := each.tagged(tag)) is not None]
        for name, score in rows:
            low, high = mean_interval(score.per_sample)
            table.add_row(
                name,
                f"{100 * score.score:.1f}",
                f"{100 * low:.1f} - {100 * high:.1f}",
                f"{100 * score.ungated:.1f}",
                f"{100 * score.japanese:.0f} %",
                str(score.n),
            )
    Console().print(table)


def _save(path: Path, scored: tuple["ScoredTask", ...]) -> None:
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as file:
        for each in scored:
            for answer in each.answers:
                row = {
                    "task": each.task.name,
                    "id": answer.sample.id,
                    "question": answer.sample.question,
                    "references": list(answer.sample.references),
                    "text": answer.text,
                    "extracted": answer.score.extracted,
                    "score": answer.score.score,
                    "ungated": answer.score.ungated,
                    "japanese": answer.score.japanese,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    beside.replace(path)
