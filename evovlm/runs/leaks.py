"""What a search would see of the samples that its winner is reported on, as far as they are at hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evovlm.runs.search_config import SearchConfig
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.overlap import MOST_PICTURES, are_few, overlaps
from evovlm.tasks.task import Sample, Split, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str
    task: Task
    samples: tuple[Sample, ...]


def leak_warnings(config: SearchConfig) -> tuple[str, ...]:
    """Hold the search's samples against every report split that is at hand; paths in `config` are absolute.

    At hand are those of `report:`, the searched tasks' own, the embedded ones, and what the hub's cache holds. Raises
    TaskError when data that the config names is missing or broken.
    """
    reports = tuple(_reports(config))
    warnings: list[str] = []
    for section in config.tasks:
        if is_harness_name(section.name):
            continue
        task = get_task(section.name)
        data = Path(section.data) if section.data is not None else None
        search = task.samples(Split.SEARCH, limit=section.limit, data=data)
        for report in reports:
            # A question without a picture is never one with.
            if report.task.needs_images == task.needs_images:
                warnings += _compared(_Named(name=task.name, task=task, samples=search), report)
    return tuple(warnings)


def _compared(search: _Named, report: _Named) -> Iterator[str]:
    for overlap in overlaps(search.samples, report.samples):
        yield overlap.message(search=search.name, report=report.name)
    if not (are_few(search.samples) and are_few(report.samples)):
        yield (
            f"{search.name} and {report.name}: their pictures were not compared, as one of them has more than "
            f"{MOST_PICTURES}. Set a limit for the task."
        )


def _reports(config: SearchConfig) -> Iterator[_Named]:
    named = set()
    for section in config.report:
        if is_harness_name(section.name):
            continue
        task = get_task(section.name)
        data = Path(section.data) if section.data is not None else None
        named.add(task.name)
        yield _Named(name=task.name, task=task, samples=task.samples(Split.REPORT, data=data))
    searched = [get_task(section.name) for section in config.tasks if not is_harness_name(section.name)]
    for task in {task.name: task for task in (*searched, *TASKS.values())}.values():
        if task.name in named or Split.REPORT not in task.splits:
            continue
        # A published set of which it is known to be too large is not read only to say so.
        if not task.is_local and task.sizes.get(Split.REPORT, 0) > MOST_PICTURES:
            continue
        if all(task.needs_images != other.needs_images for other in searched):
            continue
        samples = task.samples_at_hand(Split.REPORT)
        if samples is not None:
            yield _Named(name=task.name, task=task, samples=samples)
