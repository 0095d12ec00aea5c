"""The models that a run's winner is compared with on the report split, and where their answers are kept.

RUN/scores/winner-1f2e3d4c5b6a/   answers of the winner, in the folder of a scoring (saved.py)
RUN/scores/winner-1f2e3d4c5b6a.yaml   its recipe
RUN/scores/parent-ja/             of a source; equal-weights/: of the merge that is not optimised
RUN/scores/random.yaml            the winner of a random search with the same budget, if one was made
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from evovlm.errors import EvovlmError
from evovlm.evaluation.answers import OpenTask, ScoredTask, TaskChoice, ThinkingMeasured
from evovlm.evaluation.engines.table import BUILTIN, engine_able_to
from evovlm.files import inner_folder, make_folder, write_file
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import PS, Recipe
from evovlm.recipes.language_config import has_vision
from evovlm.recipes.model_ref import ModelRef, read_config
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.config.sections import NamedTask, TaskSection
from evovlm.runs.run import Run
from evovlm.runs.scores.saved import read_saved
from evovlm.runs.scores.score_models import ScoreObserver, ScoreRequest, keep_scored, score_models, work_of
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.task import Split, TaskSettings

Role = Literal["winner", "parent", "baseline", "stage"]
"""What a model is to a run: its winner, one of its sources, a merge to compare with, a hybrid's first stage."""

SCORES_FOLDER = "scores"
WINNER = "winner"
EQUAL_WEIGHTS = "equal-weights"
FIRST_STAGE = "first-stage"
RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model on the report split: its `name` for people, and the `model`, a checkpoint or a recipe."""

    name: str
    role: Role
    key: str
    model: ModelRef | Recipe

    def folder(self, run: Path) -> Path:
        """Return the folder of its answers."""
        return run / SCORES_FOLDER / self.key

    def recipe_file(self, run: Path) -> Path:
        """Return the file of its recipe, if it is a recipe."""
        return run / SCORES_FOLDER / f"{self.key}.yaml"

    def text(self, run: Path) -> str:
        """Return its name on the command line."""
        return self.model.text if isinstance(self.model, ModelRef) else str(self.recipe_file(run))


def contenders_of(run: Run) -> list[Contender]:
    """Return the winner so far (if there is one), every parent, and the baselines.

    For a task with pictures, a parent that cannot see is taken as the language model inside the host.
    """
    found: list[Contender] = []
    winner, config = run.winner, next(iter(run.searches.values())).config
    if winner is not None:
        found.append(Contender(name=WINNER, role="winner", key=f"{WINNER}-{winner.recipe_id}", model=winner))
    if winner is not None and winner.first_stage is not None:
        key = f"{FIRST_STAGE}-{winner.first_stage.recipe_id}"
        found.append(Contender(name=PS, role="stage", key=key, model=winner.first_stage))
    own = config.template(relative_to=None).sources
    sources = {**(winner.sources if winner is not None else {}), **own}
    with_pictures = any(_needs_images(choice) for choice in report_tasks(config))
    for name, ref in sources.items():
        blind = with_pictures and not has_vision(read_config(ref) or {})
        model = config.source_alone(name) if blind and name in own else ref
        found.append(Contender(name=name, role="parent", key=f"parent-{name}", model=model))
    baseline = config.baseline()
    if baseline is not None and len(baseline.sources) > 1:
        found.append(Contender(name=EQUAL_WEIGHTS, role="baseline", key=EQUAL_WEIGHTS, model=baseline))
    random = run.folder / SCORES_FOLDER / f"{RANDOM}.yaml"
    if random.is_file():
        found.append(random_contender(load_recipe(random, methods=METHODS)))
    return found


def random_contender(winner: Recipe) -> Contender:
    """Return the winner of a random search as a baseline."""
    return Contender(name=RANDOM, role="baseline", key=RANDOM, model=winner)


def report_tasks(config: SearchConfig) -> tuple[TaskChoice, ...]:
    """Return the tasks of the report: those of `report:`, else the report splits of the searched tasks.

    A task is asked and scored as the config says: in its own section, or in the search's section of the same name.
    """
    choices = []
    judge = None if config.judge is None else config.judge.choice(budget=None)
    searched = {section.name: section for section in config.tasks}
    for section in config.report or config.tasks:
        # The data of a search are not those of a report.
        data = Path(section.data) if config.report and section.data is not None else None
        if is_harness_name(section.name) or Split.REPORT in get_task(section.name).splits:
            # Nor is the limit of a search.
            limit = section.limit if config.report else None
            search = searched.get(section.name)
            settings = _of_report(section, None if search is section else search)
            asked = any(each is not None and config.measures_thinking(each) for each in (section, search))
            thinking: ThinkingMeasured = "always" if asked else "found"
            choices.append(
                TaskChoice(name=section.name, data=data, limit=limit, judge=judge, thinking=thinking, **settings)
            )
    return tuple(choices)


def _of_report(section: NamedTask, search: TaskSection | None) -> TaskSettings:
    """Return how a task of the report is asked: as in the search, but for what its own section says.

    The cheaper decoding of a search is left out; what a search changes of the decoding holds here too.
    """
    found: dict[str, object] = {}
    for each in (search, section):
        if each is not None:
            found |= {key: value for key, value in each.settings.items() if value is not None}
            changes = each.settings["decoding"]
            if isinstance(each, TaskSection) and changes is not None:
                found["decoding"] = changes.model_copy(update={"like": None})
    return cast(TaskSettings, found)


def scored_of(contender: Contender, run: Path) -> tuple[ScoredTask, ...]:
    """Return a contender's answers to the tasks that are finished.

    Raises RunMismatch for a folder that is not one of a scoring, or was changed.
    """
    saved = read_saved(contender.folder(run))
    if saved is None:
        return ()
    found = (saved.finished(0, number) for number in range(len(saved.settings["tasks"])))
    return tuple(each for each in found if each is not None)


def score_missing(run: Run, *, allow_code: bool = False, observer: ScoreObserver | None = None) -> None:
    """Let every contender answer the report tasks, continuing with the answers that exist.

    With `allow_code`, metric scripts and harness task files that the run names are run. Raises what loading models and
    opening tasks raise; existing answers stay.
    """
    if not report_tasks(run.config):
        raise EvovlmError(
            f"{run.folder}: none of its tasks has a report split. Name tasks under `report:` in the config."
        )
    contenders = contenders_of(run)
    for number, contender in enumerate(contenders, start=1):
        called = f"{contender.name}, {number} of {len(contenders)}"
        request = replace(_request(contender, run, allow_code=allow_code), called=(called,))
        score_models(request, save=_place(contender, run), resume=True, observer=observer)


def keep_answers(contender: Contender, run: Run, *, opened: Sequence[OpenTask], scored: Sequence[ScoredTask]) -> None:
    """Keep a contender's answers to the report tasks, as `score_missing` does, which then need not ask it.

    Answers that the run holds are replaced.
    """
    keep_scored(_request(contender, run), opened, scored, save=_place(contender, run))


def _request(contender: Contender, run: Run, *, allow_code: bool = False) -> ScoreRequest:
    """Return the request for a contender's answers; a recipe is written to the file that the request names."""
    folder = run.folder
    if not isinstance(contender.model, ModelRef):
        make_folder(inner_folder(folder, SCORES_FOLDER))
        text = recipe_to_yaml(contender.model, folder=folder / SCORES_FOLDER)
        write_file(contender.recipe_file(folder), text)
    tasks, device = report_tasks(run.config), run.config.device
    recorded = run.journal.engine
    work = replace(work_of(contender.model, tasks, device=device), tensor_parallel=recorded.tensor_parallel)
    engine = engine_able_to(work, preferred=recorded.name)
    return ScoreRequest(
        models=(contender.text(folder),),
        tasks=tasks,
        split=Split.REPORT,
        device=device,
        engine=engine,
        tensor_parallel=1 if engine == BUILTIN else recorded.tensor_parallel,
        allow_code=allow_code,
    )


def _place(contender: Contender, run: Run) -> Path:
    return inner_folder(inner_folder(run.folder, SCORES_FOLDER), contender.key)


def _needs_images(choice: TaskChoice) -> bool:
    return not is_harness_name(choice.name) and get_task(choice.name).needs_images
