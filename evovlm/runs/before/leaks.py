"""Which samples of report splits a search would see, of those that are on this machine; which it cannot have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evovlm.evaluation.near_images import NearImages
from evovlm.runs.config.search import SearchConfig
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.overlap import MOST_PICTURES, are_few, overlaps
from evovlm.tasks.task import Sample, Split, Task, absence_lines

_N_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str
    task: Task
    samples: tuple[Sample, ...]


def leak_warnings(config: SearchConfig) -> tuple[str, ...]:
    """Compare the search's samples with every report split on this machine; paths in `config` are absolute.

    At hand are those of `report:`, the searched tasks' own, the embedded ones, and what the hub's cache holds. Raises
    TaskError when data that the config names is missing or broken, and what `load_clip` raises for `guard:`'s model.
    """
    reports = tuple(_reports(config))
    near = _near_images(config)
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
                warnings += _compared(_Named(name=task.name, task=task, samples=search), report, near)
    return tuple(warnings)


def data_notes(config: SearchConfig) -> tuple[str, ...]:
    """Return what was decided about the user's own data of a search and its report; paths in `config` are absolute.

    Raises TaskError for data that is missing or broken.
    """
    splits: dict[tuple[str, str], list[Split]] = {}
    for name, split, data in _asked_for(config):
        if not is_harness_name(name) and split in get_task(name).splits:
            task = get_task(name)
            for note in task.notes(split, None if data is None else Path(data)):
                splits.setdefault((task.name, note), []).append(split)
    # What holds for both splits is said once.
    return tuple(f"{name}, {' and '.join(dict.fromkeys(of))} split: {note}" for (name, note), of in splits.items())


def _asked_for(config: SearchConfig) -> list[tuple[str, Split, str | None]]:
    """Return the name, split and data of each task of the search and of its report."""
    asked = [(section.name, Split.SEARCH, section.data) for section in config.tasks]
    if config.report:
        return asked + [(section.name, Split.REPORT, section.data) for section in config.report]
    return asked + [(section.name, Split.REPORT, None) for section in config.tasks]


def absence_warnings(config: SearchConfig) -> tuple[str, ...]:
    """Return which samples of the search and of its report this machine cannot have; paths in `config` are absolute.

    Raises TaskError for data that is missing or broken, and for a task of which no sample is left.
    """
    warnings: list[str] = []
    for name, split, data in _asked_for(config):
        task = None if is_harness_name(name) else get_task(name)
        # Published pictures are files, which every machine can have.
        if task is not None and task.is_local and split in task.splits:
            found = task.read(split, data=Path(data) if data is not None else None)
            warnings += absence_lines(f"{task.name}, {split} split", found.absent)
    return tuple(warnings)


def _near_images(config: SearchConfig) -> NearImages | None:
    """Open the model that pictures are compared by, where that is asked for and there are pictures."""
    searched = [get_task(section.name) for section in config.tasks if not is_harness_name(section.name)]
    if config.guard is None or not any(task.needs_images for task in searched):
        return None
    # open_clip takes seconds to import.
    from evovlm.models.pictures.clip import load_clip

    clip = load_clip(config.guard.near_pictures, device=config.device)
    return NearImages(clip=clip, threshold=config.guard.threshold)


def _near(search: _Named, report: _Named, near: NearImages) -> Iterator[str]:
    pairs, search_left_out, report_left_out = near.compare(search.samples, report.samples)
    for kind, ours, left_out, other in (
        ("search", search, search_left_out, report),
        ("report", report, report_left_out, search),
    ):
        if left_out:
            yield (
                f"{len(left_out)} of the {len(ours.samples)} {kind} samples of {ours.name} have pictures "
                f"that could not be compared with those of {other.name}: {next(iter(left_out.values()))}"
            )
    if pairs:
        shown = [f"{pair.search_id} ~ {pair.report_id} ({pair.similarity:.3f})" for pair in pairs[:_N_EXAMPLES]]
        shown += ["..."] if len(pairs) > _N_EXAMPLES else []
        count = len({pair.report_id for pair in pairs})
        yield (
            f"a search on {search.name} sees pictures similar to those of {count} of the report samples of "
            f"{report.name} (a cosine of {near.threshold:g} or more): {', '.join(shown)}. "
            "Look at them; if they are the same, use different samples for the search or for the report."
        )


def _compared(search: _Named, report: _Named, near: NearImages | None) -> Iterator[str]:
    for overlap in overlaps(search.samples, report.samples):
        yield overlap.message(search=search.name, report=report.name)
    if near is not None:
        yield from _near(search, report, near)
    elif not (are_few(search.samples) and are_few(report.samples)):
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
        reported = task.samples(Split.REPORT, limit=section.limit, data=data)
        yield _Named(name=task.name, task=task, samples=reported)
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
