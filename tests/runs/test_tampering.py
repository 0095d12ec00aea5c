"""A journal that was changed by hand, or cut in the middle, is refused: which line, what it says, what it should."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evovlm.errors import RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.searching.evolve import RunResult, evolve
from tests.runs.conftest import TASK

Lines = list[str]


def edited(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Lines], Lines]:
    """Return what changes the row in a line; the header's number is 1."""

    def edit(lines: Lines) -> Lines:
        row = json.loads(lines[number - 1])
        change(row)
        return [*lines[: number - 1], json.dumps(row), *lines[number:]]

    return edit


def swapped(lines: Lines) -> Lines:
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def of_task(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = row["scores"][TASK]
    return found


def changed_copy(finished: Path, folder: Path, change: Callable[[Lines], Lines]) -> Path:
    """Copy a run into the folder, with other lines in its journal."""
    shutil.copytree(finished, folder)
    journal = folder / "journal.jsonl"
    lines = change(journal.read_text(encoding="utf-8").splitlines())
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(1, lambda row: row["config"].update(seed=4)), ":1: the config in its header is not the one"),
        (lambda lines: [*lines[:3], *lines[4:]], ":4: candidate 3 is where 2 should be: lines are missing"),
        (swapped, ":4: candidate 3 is where 2 should be"),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], ":5: candidate 2 is where 3 should be"),
        (lambda lines: [*lines[:3], lines[3][:-20], *lines[4:]], ":4: is not JSON"),
        (
            edited(3, lambda row: row.update(fitness=0.9)),
            r":3: candidate 1: its fitness is 0.9, but its scores give 0\.",
        ),
        (
            edited(3, lambda row: of_task(row).update(score=0.9)),
            rf":3: candidate 1: scores.{TASK}.score is 0.9, but the mean of its per_sample is 0\.",
        ),
        (
            edited(3, lambda row: of_task(row)["per_sample"].pop()),
            rf":3: is not a line of a journal \(scores.{TASK}.per_sample has 3 numbers, but n is 4\)",
        ),
        (
            edited(3, lambda row: row["scores"].clear()),
            rf":3: candidate 1: has scores of \[\], and the first \['{TASK}'\]",
        ),
        (
            edited(3, lambda row: row.update(goals=[0.5, 0.5])),
            ":3: candidate 1: has goals: 2, and the first 0",
        ),
        (edited(3, lambda row: row.update(generation=2)), ":3: candidate 1 is of generation 2, but follows 0"),
        (edited(3, lambda row: row.pop("tokens")), r":3: is not a line of a journal \(tokens: missing\)"),
        (
            edited(3, lambda row: row.update(recipe_id="0123456789ab")),
            ":3: candidate 1 is not .* now: its recipe_id is 0123456789ab, but this search proposes [0-9a-f]{12}",
        ),
        (
            edited(3, lambda row: row["genome"].__setitem__(1, 0.25)),
            r":3: candidate 1 is not what .* now: genome\[1\] is .*0.25.*, but this search proposes .*\d",
        ),
    ],
)
def test_a_changed_journal_is_refused_with_the_line_and_what_differs(
    change: Callable[[Lines], Lines],
    words: str,
    whole_run: RunResult,
    config: EvolveConfig,
    evaluator: Evaluator,
    tmp_path: Path,
) -> None:
    # Without its end, so that the run would go on.
    run = changed_copy(whole_run.folder, tmp_path / "run", lambda lines: change(lines[:-2]))
    journal = run / "journal.jsonl"
    changed = journal.read_bytes()
    with pytest.raises(RunMismatch) as caught:
        evolve(config, out=run, resume=True, evaluator=evaluator)
    assert re.search(words, str(caught.value)), caught.value
    assert re.search(r"[Pp]ut back the file as it was", str(caught.value))
    assert journal.read_bytes() == changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(3, lambda row: row.update(fitness=1.0)), r":3: candidate 1: its fitness is 1\.0"),
        (
            edited(3, lambda row: row["genome"].__setitem__(1, 0.25)),
            r":3: candidate 1: its genome decodes to the recipe [0-9a-f]{12}, but [0-9a-f]{12} was scored",
        ),
    ],
)
def test_a_finished_run_that_was_changed_does_not_return_its_result(
    change: Callable[[Lines], Lines],
    words: str,
    whole_run: RunResult,
    config: EvolveConfig,
    evaluator: Evaluator,
    tmp_path: Path,
) -> None:
    run = changed_copy(whole_run.folder, tmp_path / "run", change)
    with pytest.raises(RunMismatch, match=words):
        evolve(config, out=run, resume=True, evaluator=evaluator)
