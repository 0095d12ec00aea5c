"""A run's candidates as an Optuna study (SQLite), for optuna-dashboard and `optuna.visualization`; the extra `optuna`.

Each candidate is a trial with the candidate's number. Its parameters are named after the genes; its values, all to be
maximised, are the goals, or the fitness in a search without goals. Its user attributes are recipe_id, generation,
fitness, tokens, and `score.TASK` and `samples.TASK` for each task; for a failed candidate, `failure` and `reason`. A
journal does not record dates: a study begins in the year 2000, and each trial takes as long as its candidate took.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from evovlm.errors import ConfigError, OutputError, first_line
from evovlm.files import new_file
from evovlm.recipes.space import Gene
from evovlm.runs.folder.entries import Entry
from evovlm.runs.run import Run

_BEGIN = datetime(2000, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study that was written."""

    name: str
    trials: int
    failed: int


def export_to_optuna(run: Path, *, out: Path) -> tuple[Study, ...]:
    """Write the candidates of a run, finished or not, into the new file `out`; a hybrid has one study per stage.

    The file appears whole or not at all. Raises OutputExists when it already exists, OutputError when it cannot be
    written, RunMismatch for a folder that holds no candidates, ConfigError where Optuna is not installed.
    """
    storage = _storage_class()
    opened = Run.open(run)
    opened.check_begun()
    name = run.resolve().name
    searches = {"-".join(filter(None, (name, stage))): search for stage, search in opened.searches.items()}
    with new_file(out) as beside:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import OperationalError

        try:
            with _silent_optuna(), closing(_Database(storage, beside)) as database:
                return tuple(_written(database.storage, search, name=name) for name, search in searches.items())
        except (OperationalError, StorageInternalError) as error:
            reason = getattr(error, "orig", error.__cause__ or error)
            raise OutputError(f"{out}: cannot be written ({first_line(reason)}).\n    Choose another disk.") from error


class _Database:
    """An SQLite file as Optuna's storage, which can be closed completely."""

    def __init__(self, storage_class: Any, path: Path) -> None:
        from sqlalchemy import URL

        url = URL.create("sqlite", database=str(path.resolve())).render_as_string()
        self.storage = storage_class(url)

    def close(self) -> None:
        """Close all connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()


@contextmanager
def _silent_optuna() -> Iterator[None]:
    """Keep Optuna from reporting every new study on stderr."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _storage_class() -> Any:
    try:
        from optuna.storages import RDBStorage
    except ImportError as error:
        raise ConfigError(
            'an Optuna study needs the package optuna, which is not installed.\n    pip install "evovlm[optuna]"'
        ) from error
    return RDBStorage


def _written(storage: Any, run: Run, *, name: str) -> Study:
    from optuna.study import StudyDirection

    candidates = run.journal.candidates
    evaluated = [entry.evaluation for entry in candidates if entry.evaluation]
    n_values = max((len(each.goals) for each in evaluated), default=0) or 1
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE] * n_values, study_name=name)
    storage.set_study_user_attr(study_id, "config", dict(run.journal.config))
    genes = run.config.whole_space(run.journal.blocks).genes
    begin = _BEGIN
    for entry in candidates:
        trial = _trial(entry, genes=genes, begin=begin)
        storage.create_new_trial(study_id, template_trial=trial)
        begin = trial.datetime_complete
    return Study(name=name, trials=len(candidates), failed=len(candidates) - len(evaluated))


def _trial(entry: Entry, *, genes: tuple[Gene, ...], begin: datetime) -> Any:
    from optuna.trial import FrozenTrial, TrialState

    done = entry.evaluation
    seconds = sum(done.seconds.values()) if done else 0.0
    return FrozenTrial(
        number=entry.index,
        trial_id=entry.index,
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        value=None,
        values=list(done.goals or (done.fitness,)) if done else None,
        datetime_start=begin,
        datetime_complete=begin + timedelta(seconds=seconds),
        params={
            gene.name: _plain(gene.value(coordinate))
            for gene, coordinate in zip(genes, entry.genome.tolist(), strict=True)
        },
        distributions={gene.name: _distribution(gene) for gene in genes},
        user_attrs=_attributes(entry),
        system_attrs={},
        intermediate_values={},
    )


def _distribution(gene: Gene) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not gene.options:
        return FloatDistribution(gene.low, gene.high)
    if all(type(option) is int for option in gene.options) and gene.options == tuple(range(len(gene.options))):
        return IntDistribution(0, len(gene.options) - 1)
    return CategoricalDistribution([_plain(option) for option in gene.options])


def _plain(option: object) -> float | int | str | bool:
    """Return an option as a value that Optuna can store."""
    return option if isinstance(option, bool | int | float | str) else str(option)


def _attributes(entry: Entry) -> dict[str, object]:
    found: dict[str, object] = {"recipe_id": entry.recipe_id, "generation": entry.generation}
    if entry.failure:
        found |= {"failure": entry.failure.kind, "reason": entry.failure.reason}
    if entry.evaluation:
        found |= {"fitness": entry.evaluation.fitness, "tokens": entry.evaluation.tokens}
        found |= {f"score.{name}": score.score for name, score in entry.evaluation.scores.items()}
        found |= {f"samples.{name}": score.n for name, score in entry.evaluation.scores.items()}
    return found
