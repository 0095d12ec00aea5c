"""A run's candidates as an Optuna study (SQLite), for optuna-dashboard and `optuna.visualization`; the extra `optuna`.

One trial a candidate, of the candidate's number. Its parameters have the names of the genes; its values are the goals,
or the fitness where there are none, all to be maximised. In its user attributes: recipe_id, generation, fitness,
tokens, and `score.TASK` and `samples.TASK` for each task; of one that failed, `failure` and `reason`. A journal has no
clock: a study begins with the year 2000, and each trial takes the seconds that its candidate took.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from evovlm.errors import ConfigError, OutputError, first_line
from evovlm.files import new_file
from evovlm.recipes.recipe_space import Choice
from evovlm.runs.config.parameters import config_from_mapping
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal
from evovlm.runs.run import Run

_BEGIN = datetime(2000, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study that was written."""

    name: str
    trials: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    """What a gene says: one of `options`, one of `levels` counted from 0, or (neither) a number between."""

    name: str
    low: float = 0.0
    high: float = 1.0
    levels: int = 0
    options: Choice | None = None

    def value(self, gene: float) -> float | int | str | bool:
        """Return it; the boundary between two levels belongs to the lower one."""
        if self.options is not None:
            return _plain(self.options.option(gene))
        if self.levels:
            return int(np.sum(gene > np.arange(1, self.levels) / self.levels))
        return min(max(self.low + gene * (self.high - self.low), self.low), self.high)


def export_to_optuna(run: Path, *, out: Path) -> tuple[Study, ...]:
    """Write the candidates of a run, finished or not, into the new file `out`: of a hybrid, one study a stage.

    The file appears whole or not at all. Raises OutputExists when it is there already, OutputError when it cannot be
    written, RunMismatch for a folder that holds no candidates, ConfigError where Optuna is not installed.
    """
    storage = _storage_class()
    opened = Run.open(run)
    opened.check_begun()
    name = run.resolve().name
    journals = {"-".join(filter(None, (name, stage))): search.journal for stage, search in opened.searches.items()}
    with new_file(out) as beside:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import OperationalError

        try:
            with _silent_optuna(), closing(_Database(storage, beside)) as database:
                return tuple(_written(database.storage, journal, name=name) for name, journal in journals.items())
        except (OperationalError, StorageInternalError) as error:
            reason = getattr(error, "orig", error.__cause__ or error)
            raise OutputError(f"{out}: cannot be written ({first_line(reason)}).\n    Choose another disk.") from error


class _Database:
    """An SQLite file as Optuna's storage; closed, nothing of it is open any more."""

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
    """Keep Optuna from telling on stderr of every study that it makes."""
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


def _written(storage: Any, journal: Journal, *, name: str) -> Study:
    from optuna.study import StudyDirection

    candidates = journal.candidates
    evaluated = [entry.evaluation for entry in candidates if entry.evaluation]
    n_values = max((len(each.goals) for each in evaluated), default=0) or 1
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE] * n_values, study_name=name)
    storage.set_study_user_attr(study_id, "config", dict(journal.config))
    parameters = _parameters(journal)
    begin = _BEGIN
    for entry in candidates:
        trial = _trial(entry, parameters=parameters, begin=begin)
        storage.create_new_trial(study_id, template_trial=trial)
        begin = trial.datetime_complete
    return Study(name=name, trials=len(candidates), failed=len(candidates) - len(evaluated))


def _parameters(journal: Journal) -> tuple[_Parameter, ...]:
    config = config_from_mapping(journal.config)
    if not isinstance(config, PathConfig):
        n_blocks = next(iter(journal.blocks.values()))
        recipes = config.recipe_space(template=config.template(relative_to=None), n_blocks=n_blocks)
        numbers = [_Parameter(name=gene.name, low=gene.low, high=gene.high) for gene in recipes.numbers.genes]
        return (*numbers, *(_Parameter(name=choice.name, options=choice) for choice in recipes.choices))
    space = config.path_space(host=config.template(relative_to=None).host_source, blocks=journal.blocks)
    # The other ways to say scales have genes that are no scales themselves.
    low, high = space.scale_range if space.scales == "per_position" else (0.0, 1.0)
    return tuple(
        _Parameter(name=name, low=low, high=high, levels=count)
        for name, count in zip(space.gene_names, space.levels.tolist(), strict=True)
    )


def _trial(entry: Entry, *, parameters: tuple[_Parameter, ...], begin: datetime) -> Any:
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
            parameter.name: parameter.value(gene)
            for parameter, gene in zip(parameters, entry.genome.tolist(), strict=True)
        },
        distributions={parameter.name: _distribution(parameter) for parameter in parameters},
        user_attrs=_attributes(entry),
        system_attrs={},
        intermediate_values={},
    )


def _distribution(parameter: _Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.options is not None:
        return CategoricalDistribution([_plain(option) for option in parameter.options.options])
    if parameter.levels:
        return IntDistribution(0, parameter.levels - 1)
    return FloatDistribution(parameter.low, parameter.high)


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
