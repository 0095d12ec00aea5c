"""Have merges answer, and keep every answer; the pilot, which says whether the parents are strong enough."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from benchmarks.real_weights.searching import open_models, plain_merges
from benchmarks.real_weights.settings import Settings
from benchmarks.real_weights.tasks import IN_ONE_LINE, task_file
from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.intervals import mean_interval
from evovlm.files import make_folder, write_file
from evovlm.recipes.kinds import Recipe
from evovlm.tasks.sample import Split

FEW_SHOTS = (
    "問題: りんごが5個あります。2個食べました。残りは何個ですか。\n答え: 5-2=3。答えは3個です。\n\n"
    "問題: 鉛筆を4本ずつ6人に配ります。鉛筆は全部で何本いりますか。\n答え: 4*6=24。答えは24本です。\n\n"
    "問題: 赤い花が7本、白い花が8本あります。3本枯れると何本になりますか。\n答え: 7+8=15。15-3=12。答えは12本です。\n\n"
    "問題: {input}\n答え:"
)
"""What the base can do when it is shown how: the ability that fine-tuning is to bring out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A model's answers to a task: whether each is right, right in any language, and Japanese; and its text."""

    ids: tuple[str, ...]
    right: tuple[float, ...]
    ungated: tuple[float, ...]
    japanese: tuple[float, ...]
    texts: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> "Scores":
        """Return the answers in a file that `scored` wrote."""
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        keys = ("id", "score", "ungated", "japanese", "text")
        ids, right, ungated, japanese, texts = (tuple(row[key] for row in rows) for key in keys)
        return cls(ids=ids, right=right, ungated=ungated, japanese=japanese, texts=texts)

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """Return the answers to several tasks, one after the other."""
        keys = ("ids", "right", "ungated", "japanese", "texts")
        return cls(**{key: tuple(chain.from_iterable(getattr(part, key) for part in parts)) for key in keys})

    def without(self, ids: Collection[str]) -> "Scores":
        """Return the answers but those to the samples named."""
        kept = [index for index, name in enumerate(self.ids) if name not in ids]
        keys = ("ids", "right", "ungated", "japanese", "texts")
        return Scores(**{key: tuple(getattr(self, key)[index] for index in kept) for key in keys})


def scored(evaluator: Evaluator, recipe: Recipe, choice: TaskChoice, split: Split, *, file: Path) -> Scores:
    """Return a merge's answers, from the file if it exists; else have them answered, and write it whole."""
    if not file.exists():
        task = open_task(choice, split).prepare(evaluator.loaded)
        if not evaluator.resident.merge(recipe):
            raise SystemExit(f"{file.stem}: the merged weights are not finite. Choose another model or weight.")
        answers = task.answer(evaluator.resident.engine).answers
        rows = [
            {
                "id": each.sample.id,
                "score": each.score,
                "ungated": each.ungated,
                "japanese": float(each.japanese),
                "reference": each.sample.references[0],
                "text": each.text,
            }
            for each in answers
        ]
        make_folder(file.parent)
        write_file(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Scores.read(file)


def run_pilot(settings: Settings) -> None:
    """Ask base, parents, equal weights and their sum a part of the search samples, and English ones; write pilot.md."""
    evaluator, template = open_models(settings)
    merges = {**plain_merges(settings), "sum": template.equal_weights(1.0)}
    searched = str(task_file(settings, settings.search_on))
    english = task_file(settings, "english")
    japanese = TaskChoice(name=searched, limit=settings.pilot_samples)
    asked = [(name, "Japanese", japanese) for name in merges]
    if settings.prompt == IN_ONE_LINE:
        asked.insert(0, ("base", "Japanese, three examples", replace(japanese, prompt=FEW_SHOTS)))
    if english.exists():
        asked += [(name, "English", TaskChoice(name=str(english))) for name in merges]
    lines = ["| model | problems | score | 95 % | ungated | Japanese | an answer |", f"|{'---|' * 7}"]
    for name, title, choice in asked:
        file = settings.out / "pilot" / f"{name}-{title.split()[-1].lower()}.jsonl"
        scores = scored(evaluator, merges[name], choice, Split.SEARCH, file=file)
        lines.append(f"| {name} | {title} | {figures(scores.right)} | {shares(scores)} | {scores.texts[0]!r} |")
        print(lines[-1], flush=True)
    write_file(settings.out / "pilot" / "pilot.md", "\n".join(lines) + "\n")


def figures(values: Sequence[float]) -> str:
    """Return a mean and its 95 % interval, x 100, as two cells of a table."""
    low, high = mean_interval(values)
    return f"{100 * sum(values) / len(values):.1f} | {100 * low:.1f} - {100 * high:.1f}"


def shares(scores: Scores) -> str:
    """Return the score in any language and the share of Japanese answers, as two cells of a table."""
    ungated, japanese = (100 * sum(each) / len(each) for each in (scores.ungated, scores.japanese))
    return f"{ungated:.1f} | {japanese:.0f} %"
