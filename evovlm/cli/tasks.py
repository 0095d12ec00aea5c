"""`evovlm tasks`: list the tasks."""

from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo_json

if TYPE_CHECKING:
    from evovlm.tasks.task import Task


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the tasks. Each with its questions, its splits, its metric, and where its data comes from."""
    from evovlm.tasks.catalogue import TASKS

    if as_json:
        echo_json([_as_json(task) for task in TASKS.values()])
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from evovlm.cli.tables import print_line

    console = Console()
    width = max(map(len, TASKS))
    console.print(Text(f"{'task':{width}}  search  report"), style="bold")
    for task in TASKS.values():
        sizes = _sizes(task)
        search, report = (str(sizes[split] or "?") if split in sizes else "-" for split in ("search", "report"))
        console.print(Text(f"{task.name:{width}}  {search:>6}  {report:>6}", style="bold"))
        about = "; ".join(filter(None, (str(task.scoring), _place(task), task.licence)))
        console.print(Padding(Text(f"{task.description}\n{about}"), (0, 0, 0, 4)))
    for names in sorted({task.contaminated for task in TASKS.values() if task.contaminated}):
        trained = ", ".join(task.name for task in TASKS.values() if task.contaminated == names)
        print_line(console, f"Trained on the data of {trained}, so their scores there mean little: {', '.join(names)}")


def _as_json(task: "Task") -> dict[str, object]:
    return {
        "name": task.name,
        "description": task.description,
        "splits": list(_sizes(task)),
        "samples": _sizes(task),
        "needs_images": task.needs_images,
        "metric": str(task.scoring),
        "prompt": task.prompt,
        "max_new_tokens": task.decoding.max_new_tokens,
        "beams": task.decoding.beams,
        "repetition_penalty": task.decoding.repetition_penalty,
        "stop": list(task.decoding.stop),
        "decodings": sorted(task.cheaper),
        "hub_id": task.hub_id,
        "cached": task.is_local or task.is_cached,
        "licence": task.licence,
        "contaminated": list(task.contaminated),
    }


def _sizes(task: "Task") -> dict[str, int | None]:
    """Return how many samples each split has, None where the split would have to be loaded."""
    splits = sorted(task.splits, reverse=True)
    return {split.value: len(task.samples(split)) if task.is_local else task.sizes.get(split) for split in splits}


def _place(task: "Task") -> str:
    if task.is_local:
        return "comes with evovlm"
    if task.hub_id is None:
        return "needs --data NAME=FILE"
    return f"{task.hub_id}{' (cached)' if task.is_cached else ''}"
