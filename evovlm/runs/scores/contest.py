"""Blind comparisons of models' answers: who takes part, what each answered, and what a person is asked next.

RUN/ratings/ratings.jsonl     what people chose (folder/ratings.py)
RUN/ratings/1f2e3d4c5b6a/     a candidate's answers, in the folder of a scoring (saved.py); 1f2e3d4c5b6a.yaml its recipe

The answers are those to samples of the search split: what people choose may select a model, and nothing selects by the
report split.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evovlm.errors import ConfigError, RunError
from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.files import inner_folder, make_folder, write_file
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.runs.config.objective import result_name
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.ratings import RATINGS_FILE, RATINGS_FOLDER, Choice, Chosen, Ratings, ratings_file
from evovlm.runs.run import Run
from evovlm.runs.scores.saved import read_saved
from evovlm.runs.scores.score_models import ScoreObserver, ScoreRequest, identity_of, score_models
from evovlm.seeding import derive_seed
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.sample import Sample, Split
from evovlm.thoughts import split_thought

_ANSWERS_FOLDER = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Two models' answers to a sample, for a person who is not shown which model is which.

    `left` and `right` are the models' keys; `number` counts the person's questions from 1, of `n` in all.
    """

    sample: Sample
    left: str
    right: str
    left_text: str
    right_text: str
    number: int
    n: int

    def choice(self, chosen: Chosen, *, rater: str, task: str) -> Choice:
        """Return what a person chose, for the journal."""
        return Choice(rater=rater, task=task, sample=self.sample.id, left=self.left, right=self.right, chosen=chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """The models that are compared by their keys, each with a name for people, and their answers to the same samples.

    `ratings` is the journal of all choices; `answers` has the text of each answer, without the model's thought.
    """

    task: str
    names: Mapping[str, str]
    samples: tuple[Sample, ...]
    answers: Mapping[str, Mapping[str, str]]
    ratings: Ratings

    @property
    def has_pictures(self) -> bool:
        """Whether any question is about a picture."""
        return any(sample.images for sample in self.samples)

    @property
    def has_differences(self) -> bool:
        """Whether any two models answered a sample differently, so that there is something to compare."""
        return next(self._questions(), None) is not None

    def question(self, rater: str) -> Question | None:
        """Return a person's next question; None when all have been answered.

        The pair of models with the fewest choices so far comes first. The order is the same for all people, so that
        their choices can be compared; the sides are drawn for each.
        """
        mine = [choice for choice in self.ratings.choices if choice.rater == rater and choice.task == self.task]
        answered = {choice.question for choice in mine}
        questions = list(self._questions())
        left = [each for each in questions if (self.task, each[1].id, frozenset(each[0])) not in answered]
        if not left:
            return None
        chosen = Counter(frozenset((choice.left, choice.right)) for choice in mine)
        pair, sample = min(left, key=lambda each: chosen[frozenset(each[0])])
        first, second = pair if derive_seed("side", rater, sample.id, *pair) % 2 else pair[::-1]
        return Question(
            sample=sample,
            left=first,
            right=second,
            left_text=self.answers[first][sample.id],
            right_text=self.answers[second][sample.id],
            number=len(questions) - len(left) + 1,
            n=len(questions),
        )

    def _questions(self) -> Iterator[tuple[tuple[str, str], Sample]]:
        """Yield all comparisons, in an order that is drawn once; equal answers leave nothing to choose."""
        every = [
            (pair, sample)
            for pair in itertools.combinations(sorted(self.names), 2)
            for sample in self.samples
            if self.answers[pair[0]][sample.id] != self.answers[pair[1]][sample.id]
        ]
        yield from sorted(every, key=lambda each: derive_seed("question", *each[0], each[1].id))


def contest_of_run(
    run: Run,
    *,
    task: str | None,
    n_candidates: int,
    n_samples: int,
    answered: bool = True,
    allow_code: bool = False,
    observer: ScoreObserver | None = None,
) -> Contest:
    """Have the best candidates of a run answer samples of a task's search split, and return the contest.

    The answers are kept in the run's folder; those that it holds are not asked for again. Without `answered` nothing is
    computed or written: the contest has the names and the ratings so far, and no samples. Raises ConfigError for a task
    that the run does not score, RunError when it has fewer than two candidates, and what scoring raises.
    """
    choice = _searched(run, task, n_samples=n_samples)
    entries = _best(run, n_candidates)
    if len(entries) < 2:
        raise RunError(f"{run.folder}: has {len(entries)} different candidates to compare, and two are needed.")
    # Read first: what is not a journal of ratings is reported before a model is loaded.
    ratings = Ratings.read(ratings_file(run.folder))
    names = {entry.recipe_id: _name(entry) for entry in entries}
    if not answered:
        return _unanswered(choice, names=names, ratings=ratings)
    folder = inner_folder(run.folder, RATINGS_FOLDER)
    make_folder(folder)
    scored: dict[str, ScoredTask] = {}
    for number, entry in enumerate(entries, start=1):
        recipe = folder / f"{entry.recipe_id}.yaml"
        write_file(recipe, recipe_to_yaml(run.space.decode(entry.genome), folder=folder))
        request = ScoreRequest(
            models=(str(recipe),),
            tasks=(choice,),
            split=Split.SEARCH,
            device=run.config.device,
            allow_code=allow_code,
            called=(f"{names[entry.recipe_id]}, {number} of {len(entries)}",),
        )
        # Another task or number of samples is another scoring.
        name = f"{entry.recipe_id}-{derive_seed(choice.name, n_samples) % 10**6}"
        found = score_models(request, save=inner_folder(folder, name), resume=True, observer=observer)
        scored[entry.recipe_id] = found.models[0].tasks[0]
    return _contest(scored, names=names, ratings=Ratings.open(ratings_file(run.folder)))


def rated_answers(run: Path, recipe_id: str) -> tuple[Answer, ...]:
    """Return the answers of a run's candidate that people were shown, as far as they are kept.

    Raises RunMismatch for answers that were changed.
    """
    found = [read_saved(folder) for folder in sorted((run / RATINGS_FOLDER).glob(f"{recipe_id}-*"))]
    tasks = [each.finished(0, 0) for each in found if each is not None]
    return tuple(answer for task in tasks if task is not None for answer in task.answers)


def contest_of_models(
    models: Sequence[str],
    choice: TaskChoice,
    *,
    split: Split,
    out: Path,
    device: str = "auto",
    answered: bool = True,
    allow_code: bool = False,
    observer: ScoreObserver | None = None,
) -> Contest:
    """Have models answer the samples of a task, and return the contest; answers and ratings are kept in `out`.

    Without `answered` nothing is computed or written, as in `contest_of_run`. Raises RunMismatch for a folder of
    something else, and what scoring raises.
    """
    ratings = Ratings.read(out / RATINGS_FILE)
    if not answered:
        return _unanswered(choice, names={_key(model): model for model in models}, ratings=ratings)
    request = ScoreRequest(models=tuple(models), tasks=(choice,), split=split, device=device, allow_code=allow_code)
    make_folder(out)
    scores = score_models(request, save=inner_folder(out, _ANSWERS_FOLDER), resume=True, observer=observer)
    keys = {model: _key(model) for model in models}
    if len(set(keys.values())) < len(keys):
        raise ConfigError("two of the models are the same. Name different models.")
    return _contest(
        {keys[each.model]: each.tasks[0] for each in scores.models},
        names={key: model for model, key in keys.items()},
        ratings=Ratings.open(out / RATINGS_FILE),
    )


def _key(model: str) -> str:
    return f"{derive_seed(identity_of(model)):016x}"


def _unanswered(choice: TaskChoice, *, names: Mapping[str, str], ratings: Ratings) -> Contest:
    return Contest(task=result_name(choice.name), names=names, samples=(), answers={}, ratings=ratings)


def _contest(scored: Mapping[str, ScoredTask], *, names: Mapping[str, str], ratings: Ratings) -> Contest:
    first = next(iter(scored.values()))
    answers = {key: {answer.sample.id: _final(answer.text) for answer in task.answers} for key, task in scored.items()}
    samples = tuple(answer.sample for answer in first.answers)
    return Contest(task=first.name, names=names, samples=samples, answers=answers, ratings=ratings)


def _final(text: str) -> str:
    """Return what a person reads: the answer without the thought, or the whole text if the thought never ends."""
    final = split_thought(text).final
    return (text if final is None else final).strip()


def _searched(run: Run, task: str | None, *, n_samples: int) -> TaskChoice:
    choices = {result_name(choice.name): choice for choice in run.config.task_choices()}
    if task is not None and task not in choices:
        raise ConfigError(f"--task {task}: {run.folder} does not search with this task{did_you_mean(task, choices)}")
    found = next(iter(choices.values())) if task is None else choices[task]
    limit = n_samples if found.limit is None else min(n_samples, found.limit)
    return replace(found, limit=limit)


def _best(run: Run, count: int) -> list[Entry]:
    """Return the winner, the Pareto front, and the fittest candidates, `count` in all, each of another recipe."""
    winner = [run.winner_entry] if run.winner_entry is not None else []
    again = [entry for entry in run.journal.rescored if entry.evaluation]
    found: dict[str, Entry] = {}
    for entry in (*winner, *(point.entry for point in run.front()), *again, *run.ranked):
        found.setdefault(entry.recipe_id, entry)
    return list(found.values())[:count]


def _name(entry: Entry) -> str:
    return "mean" if entry.kind == "mean" else f"candidate {entry.index}"
