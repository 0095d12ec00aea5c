"""What `import evovlm` offers: the commands `evolve`, `merge` and `score` as functions, and the reading of a run.

The examples of these docstrings run one after the other in the tests, in an empty folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evovlm.evaluation.loadable import check_loads
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.writer import WrittenCheckpoint, write_checkpoint
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.problems import validated
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.run import Run
from evovlm.runs.scores.score_models import Scores, ask_models
from evovlm.runs.searching.evolve import RunResult, run_search
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.prompts import ChatSettings
from evovlm.tasks.task import parse_split

__all__ = ["Recipe", "Run", "RunResult", "Scores", "WrittenCheckpoint", "evolve", "load_run", "merge", "score"]


def evolve(config: str | Path, *, out: str | Path, resume: bool = False, allow_code: bool = False) -> RunResult:
    """Search for the recipe that makes the best merged model, as `evovlm evolve CONFIG --out OUT` does.

    `config` is a YAML file, `out` the run's folder, which is new or, with `resume`, continued. Relative paths in the
    config start at its folder. `allow_code` runs metric scripts and harness task files that it names: read them first.
    Raises ConfigError with all problems of the file, CodeNotAllowed, which lists the files that would run,
    OutputExists, RunMismatch, AllCandidatesFailed, ModelError, TaskError.

    >>> from pathlib import Path
    >>> import evovlm
    >>> _ = Path("search.yaml").write_text('''
    ... format: 1
    ... kind: evolve
    ... merge: {base: zoo:base, sources: {math: zoo:math-a, ja: zoo:ja}, method: dare_ties}
    ... optimizer: {kind: cma, population: 4}
    ... budget: {candidates: 4}
    ... tasks: [{name: word_problems_ja, limit: 2}]
    ... device: cpu
    ... ''')
    >>> result = evovlm.evolve("search.yaml", out="run")
    >>> result.candidates
    4
    >>> 0 <= result.fitness <= 1
    True
    """
    path = Path(config)
    return run_search(load_search(path), out=Path(out), relative_to=path.parent, resume=resume, allow_code=allow_code)


def load_run(folder: str | Path) -> Run:
    """Read a run's folder, finished or not, even while the run is in progress.

    The `Run` has `config`, `finished`, `candidates` (each with `recipe`, `fitness`, `scores`, `failure`), the `winner`
    (a recipe; None if all failed) with its `fitness`, `rescored`, `front()` and more. Of a hybrid they are those of the
    stage that it has reached; `stage("ps")` is the first one. Raises RunMismatch for a folder without a journal.

    >>> import evovlm
    >>> run = evovlm.load_run("run")
    >>> run.finished, len(run.candidates), run.config.merge.method
    (True, 4, 'dare_ties')
    >>> best = max(run.candidates, key=lambda candidate: candidate.fitness)
    >>> best.recipe == run.winner
    True
    >>> sorted(run.winner.parameters)
    ['ja', 'math']
    """
    return Run.open(Path(folder))


def merge(recipe: Recipe | str | Path, *, out: str | Path, overwrite: bool = False) -> WrittenCheckpoint:
    """Write the model that a recipe describes to the folder `out`, as `evovlm merge RECIPE --out OUT` does.

    `recipe` is a YAML file or a `Recipe`; with `overwrite` an existing model folder is replaced. Models that do not
    fit are refused before their weights are fetched. Raises ConfigError, ModelError, OutputError, NotEnoughRoom.

    >>> import evovlm
    >>> run = evovlm.load_run("run")
    >>> written = evovlm.merge(run.winner, out="model")
    >>> written.recipe_id == run.winner.recipe_id
    True
    """
    loaded = load_recipe(Path(recipe), methods=METHODS) if isinstance(recipe, str | Path) else recipe
    preflight_recipe(loaded, out=Path(out), may_exist=overwrite).raise_problems()
    return write_checkpoint(loaded, Path(out), overwrite=overwrite, check=check_loads)


def score(
    models: str | Path | Sequence[str | Path],
    *,
    tasks: str | Path | Sequence[str | Path],
    split: str = "report",
    limit: int | None = None,
    prompt: str | None = None,
    chat: Mapping[str, object] | None = None,
    decoding: str | Mapping[str, object] | None = None,
    reasoning: str | tuple[str, str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    device: str = "auto",
    engine: str = "auto",
    tensor_parallel: int = 1,
    save: str | Path | None = None,
    resume: bool = False,
    allow_code: bool = False,
) -> Scores:
    """Score models on tasks and compare every pair of them, as `evovlm score MODEL... --task TASK` does.

    A model is a folder, a hub id, `zoo:NAME` or a recipe's YAML file; a task is a name that `evovlm tasks` lists, or
    the YAML file or folder of your own. `prompt`, `chat`, `decoding` and `reasoning` are those of a config's `tasks:`
    (docs/scoring.md). `limit` takes the first samples only, `data` says where a task's data is, `engine` is what
    answers, with each model divided over `tensor_parallel` GPUs (docs/scaling.md), `save` is a new folder for all
    answers, from which an interrupted scoring continues with `resume`. `allow_code` runs metric scripts and harness
    task files: read them first. Every score is in [0, 1]. Raises CodeNotAllowed, which lists these files, TaskError,
    ConfigError, ModelError, OutputExists, RunMismatch.

    >>> import evovlm
    >>> scores = evovlm.score(["model", "zoo:ja"], tasks="word_problems_ja", limit=2, device="cpu")
    >>> print(scores)
    model, word_problems_ja: 100.0 (accuracy, robust extractor, script gate; 2 samples)
    zoo:ja, word_problems_ja: 0.0 (accuracy, robust extractor, script gate; 2 samples)
    >>> scores.models[1].tasks[0].score.n
    2
    """
    return ask_models(
        _texts(models),
        tasks=_texts(tasks),
        split=parse_split(split),
        limit=limit,
        prompt=prompt,
        chat=None if chat is None else validated(ChatSettings, chat, where="chat"),
        decoding=None if decoding is None else validated(DecodingChanges, decoding, where="decoding"),
        reasoning=reasoning,
        data={name: Path(place) for name, place in (data or {}).items()},
        device=device,
        engine=engine,
        tensor_parallel=tensor_parallel,
        save=None if save is None else Path(save),
        resume=resume,
        allow_code=allow_code,
    )


def _texts(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))
