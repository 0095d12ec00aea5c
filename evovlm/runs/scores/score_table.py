"""A table of models and tasks, scores x 100 with 95 % intervals, in Markdown, CSV or LaTeX.

| model | mgsm_ja | ja_vlm_bench |
|---|---:|---:|
| models/evollm-jp | 52.0 (45.8 - 58.1) | 51.3 (44.9 - 57.6) |
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence

from evovlm.errors import ConfigError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.intervals import mean_interval
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.scores.score_models import Scores
from evovlm.tasks.sample import Split

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def check_table_form(form: str) -> str:
    """Return the name of a form of tables. Raises ConfigError for another name."""
    if form not in TABLES:
        raise ConfigError(f"--table {form}: unknown form{did_you_mean(form, TABLES)}")
    return form


def score_table(scores: Scores, *, form: str, split: Split) -> str:
    """Return the scores as a table in a form, with a last newline. Raises ConfigError for an unknown form."""
    return TABLES[check_table_form(form)](scores, split)


def _markdown(scores: Scores, split: Split) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    names = [task.name for task in scores.models[0].tasks]
    lines = [row(["model", *names]), f"|---|{'---:|' * len(names)}"]
    lines += [row([_plain(each.model), *map(_score_text, each.tasks)]) for each in scores.models]
    return "\n".join([*lines, "", *(f"{line}  " for line in _notes(scores, split))]) + "\n"


def _latex(scores: Scores, split: Split) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"{' & '.join(map(_latex_text, cells))} \\\\"

    names = [task.name for task in scores.models[0].tasks]
    lines = [
        *(f"% {line}" for line in ("needs the package booktabs", *_notes(scores, split))),
        f"\\begin{{tabular}}{{l{'r' * len(names)}}}",
        "\\toprule",
        row(["model", *names]),
        "\\midrule",
        *(row([_plain(each.model), *map(_score_text, each.tasks)]) for each in scores.models),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _csv(scores: Scores, _split: Split) -> str:
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    names = [task.name for task in scores.models[0].tasks]
    parts = ("", "_low", "_high", "_n", "_unscored")
    rows.writerow(["model", *(f"{name}{part}" for name in names for part in parts)])
    for each in scores.models:
        rows.writerow([_plain(each.model), *(cell for task in each.tasks for cell in _cells(task))])
    return written.getvalue()


def _cells(task: ScoredTask) -> list[str]:
    score = task.score
    figures = (score.score, *mean_interval(score.per_sample))
    return [*(f"{100 * figure:.4f}" for figure in figures), str(score.n), str(score.unscored)]


def _score_text(task: ScoredTask) -> str:
    score = task.score
    low, high = mean_interval(score.per_sample)
    return f"{100 * score.score:.1f} ({100 * low:.1f} - {100 * high:.1f})"


def _notes(scores: Scores, split: Split) -> list[str]:
    """Return what the figures are, and how each task was scored."""
    tasks = [
        f"{task.name}: {task.measured}; {task.score.n} samples of the {split} split" for task in scores.models[0].tasks
    ]
    return ["scores x 100, in brackets the 95 % interval", *map(_plain, tasks)]


def _plain(text: str) -> str:
    """Return a text from a file or command line on one line."""
    return _CONTROLS.sub(" ", text)


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


TABLES: Mapping[str, Callable[[Scores, Split], str]] = {"md": _markdown, "csv": _csv, "latex": _latex}
