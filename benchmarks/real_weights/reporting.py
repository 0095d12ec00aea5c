"""The report: every merge on the reported samples, with intervals, paired tests and what each stage cost."""

import json
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.real_weights.lessons import ADAPTERS
from benchmarks.real_weights.scoring import Scores, figures, scored
from benchmarks.real_weights.searching import SEARCHES, best_of_grid, open_models, plain_merges, search_folder
from benchmarks.real_weights.settings import Settings
from benchmarks.real_weights.tasks import task_file
from benchmarks.real_weights.training import LOG_FILE
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.comparison import compare
from evovlm.files import write_file
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.run import Run
from evovlm.tasks.sample import Split

EVOLVED = tuple(name for name, (_, optimizer) in SEARCHES.items() if optimizer != "random")
Merges = Mapping[str, Sequence[Recipe]]
"""By row of the table: one merge, or the winner of each seed."""
Answers = Mapping[str, Sequence[Scores]]
"""Those to one task by row of the table: of one merge, or of the winner of each seed."""


def merges_of(settings: Settings, template: MergeTemplate) -> Merges:
    """Return every merge of the report. Raises SystemExit for a search that is not finished."""
    found: dict[str, Sequence[Recipe]] = {name: [recipe] for name, recipe in plain_merges(settings).items()}
    found["grid"] = [template.equal_weights(best_of_grid(settings))]
    for name in SEARCHES:
        winners = []
        for seed in range(settings.seeds):
            folder = search_folder(settings, name, seed)
            run = Run.open(folder) if folder.exists() else None
            if run is None or run.winner is None or not run.finished:
                raise SystemExit(f"{folder}: this search is not finished. Run the stage search again.")
            winners.append(run.winner)
        found[name] = winners
    return found


def run_report(settings: Settings) -> None:
    """Score every merge on every reported task, and write report.md."""
    evaluator, template = open_models(settings)
    merges = merges_of(settings, template)
    found: dict[str, Answers] = {}
    for task in settings.report_on:
        choice = TaskChoice(name=str(task_file(settings, task)))
        answers: dict[str, list[Scores]] = {name: [] for name in merges}
        for name, recipes in merges.items():
            for seed, recipe in enumerate(recipes):
                file = settings.out / "report" / f"{task}-{name}-{seed}.jsonl"
                answers[name].append(scored(evaluator, recipe, choice, Split.REPORT, file=file))
                print(f"{task}, {name} {seed}: {figures(answers[name][-1].right)}", flush=True)
        found[task] = answers
    parts = [task_part(task, answers, parents=tuple(settings.sources)) for task, answers in found.items()]
    if len(found) > 1:
        parts.append(task_part("together", joined(list(found.values())), parents=tuple(settings.sources)))
    if seen := seen_problems(settings):
        unseen = joined([without(answers, seen.get(task, frozenset())) for task, answers in found.items()])
        parts.append(task_part("together, without problems seen before", unseen, parents=tuple(settings.sources)))
    parts.append(cost_part(settings))
    write_file(settings.out / "report" / "report.md", "\n".join(parts))
    print("\n".join(parts))


def joined(parts: Sequence[Answers]) -> Answers:
    """Return the answers to several tasks as those to one."""
    return {
        name: [Scores.joined(same_seed) for same_seed in zip(*(part[name] for part in parts), strict=True)]
        for name in parts[0]
    }


def seen_problems(settings: Settings) -> Mapping[str, frozenset[str]]:
    """Return the ids of reported problems that were looked at before the search, by set.

    These are the problems whose English side the pilot asks, and those in the file of --seen.
    """
    english = task_file(settings, "english").with_name("search.jsonl")
    asked = english.read_text(encoding="utf-8").splitlines() if english.exists() else []
    seen = {"msvamp": {json.loads(line)["id"] for line in asked}}
    if settings.seen is not None:
        for task, ids in json.loads(settings.seen.read_text(encoding="utf-8")).items():
            seen.setdefault(task, set()).update(ids)
    return {task: frozenset(ids) for task, ids in seen.items() if ids and task in settings.report_on}


def without(answers: Answers, seen: frozenset[str]) -> Answers:
    """Return the answers to a task but those to problems that were seen."""
    return {name: [each.without(seen) for each in scores] for name, scores in answers.items()}


def over_seeds(answers: Sequence[Scores], key: str) -> list[float]:
    """Return the mean over the seeds for each sample."""
    return [sum(values) / len(values) for values in zip(*(getattr(each, key) for each in answers), strict=True)]


def task_part(task: str, answers: Answers, *, parents: Sequence[str]) -> str:
    """Return a task's two tables in Markdown: the scores, and each evolved merge against the others."""
    n = len(next(iter(answers.values()))[0].ids)
    lines = [f"{task}, {n} samples", "", "| model | score | 95 % | seeds | ungated | Japanese |", f"|{'---|' * 6}"]
    for name, each in answers.items():
        seeds = ", ".join(f"{100 * sum(one.right) / n:.1f}" for one in each)
        ungated, japanese = (100 * sum(over_seeds(each, key)) / n for key in ("ungated", "japanese"))
        mean = figures(over_seeds(each, "right"))
        lines.append(f"| {name} | {mean} | {seeds} | {ungated:.1f} | {japanese:.0f} % |")
    return "\n".join([*lines, "", *comparisons(answers, parents=parents), ""])


def comparisons(answers: Answers, *, parents: Sequence[str]) -> Iterator[str]:
    """Yield the table of paired differences, x 100, of the means over the seeds."""
    yield "| evolved | against | difference | 95 % | p |"
    yield f"|{'---|' * 5}"
    best = max(parents, key=lambda name: sum(answers[name][0].right))
    for name in (each for each in EVOLVED if each in answers):
        for other in (each for each in (best, "equal", "grid", "random") if each in answers):
            pair = [over_seeds(answers[each], "right") for each in (name, other)]
            binary = all(value in (0.0, 1.0) for values in pair for value in values)
            found = compare(*pair, binary=binary)
            interval = f"{100 * found.low:+.1f} - {100 * found.high:+.1f}"
            yield f"| {name} | {other} | {100 * found.difference:+.1f} | {interval} | {found.p_value:.3f} |"


def cost_part(settings: Settings) -> str:
    """Return the table of hours by the clock: of each training, and of each search over all its seeds."""
    lines = ["| what | hours |", "|---|---|"]
    for name in ADAPTERS if settings.trains else ():
        log = (settings.out / "adapters" / f"{name}.part" / LOG_FILE).read_text(encoding="utf-8").splitlines()
        lines.append(f"| training {name} | {sum(json.loads(line)['seconds'] for line in log) / 3600:.2f} |")
    for name in SEARCHES:
        runs = [Run.open(search_folder(settings, name, seed)) for seed in range(settings.seeds)]
        candidates = sum(len(run.journal.candidates) for run in runs)
        hours = sum(run.seconds for run in runs) / 3600
        asked = f"seeds: {settings.seeds}, candidates: {candidates}, tokens: {sum(run.journal.tokens for run in runs)}"
        lines.append(f"| search {name} ({asked}) | {hours:.2f} |")
    return "\n".join([*lines, ""])
