"""The tasks of a search's config, as they are opened."""

from pathlib import Path

from evovlm.evaluation.answers import TaskChoice
from evovlm.runs.config.search import SearchConfig


def task_choices(config: SearchConfig) -> tuple[TaskChoice, ...]:
    """Return what the tasks of a resolved config are opened as, in their order."""
    return tuple(
        TaskChoice(
            name=task.name,
            decoding=task.decoding,
            prompt=task.prompt,
            limit=task.limit,
            weight=task.weight,
            data=Path(task.data) if task.data is not None else None,
        )
        for task in config.tasks
    )
