"""A run as its folder holds it: its config, its entries, who won, whether it is finished.

Everything that looks at a run reads it here: `show`, `watch`, `report`, `export`, the Python API, and a search when it
writes its result. Nothing in the folder is changed, and no model is loaded.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from evovlm.errors import ConfigError, RunError, RunMismatch
from evovlm.evaluation.objective import Constraint, Goal, Objective
from evovlm.foreign_json import read_json
from evovlm.recipes.kinds import PS, Recipe, Template
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.space import Description, Space
from evovlm.runs.config.hybrid import PATH
from evovlm.runs.config.kinds import config_from_mapping
from evovlm.runs.config.search import SearchConfig, Winner
from evovlm.runs.findings import FrontPoint, Rescored, RunCandidate
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, best_distinct, changed, read_journal
from evovlm.runs.folder.layout import JOURNAL_FILE, RESULT_FILE, winner_file
from evovlm.runs.folder.ratings import Ratings, ratings_file
from evovlm.search import pareto

PICKS = "best, knee, rated, task=NAME, or a candidate's number"
PEAK_MEMORY = "peak_memory_bytes"
"""The key in a run's result."""
MEMORY_PLACES = ("process", "worker", "gpu")
_TASK = "task="


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run, finished or not. Every fitness is on the search split (a snapshot's on its validation samples).

    The run of a hybrid has `stages`, each a run of its own, by name: those that have candidates. Its config, its
    journal and all that follows from them are those of the last of these stages.
    """

    folder: Path
    config: SearchConfig
    journal: Journal
    stages: Mapping[str, "Run"] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run's folder, while the run is in progress too. Raises RunMismatch for a folder without a journal."""
        read = {name: cls._read(file) for name, file in journal_files(folder).items()}
        if not read:
            found = f"holds no {JOURNAL_FILE}" if folder.exists() else "does not exist"
            raise RunMismatch(f"{folder} {found}.\n    Name the folder that `evovlm evolve --out` wrote.")
        if "" in read:
            return read[""]
        begun = {name: run for name, run in read.items() if run.journal.candidates} or read
        return replace(list(begun.values())[-1], folder=folder, stages=begun)

    @classmethod
    def _read(cls, file: Path) -> "Run":
        journal = read_journal(file)
        run = cls(folder=file.parent, config=config_from_mapping(journal.config), journal=journal)
        run._check_shape()
        return run

    def _check_shape(self) -> None:
        """Raise RunMismatch where the header or the genomes do not suit the config."""
        blocks, sources = self.journal.blocks, self.template.shaped_like
        differ = not self.template.keeps_every_source and len(set(blocks.values())) > 1
        if set(blocks) != set(sources) or differ:
            needed = f"the sources are {', '.join(sources)}{', with equal numbers' if differ else ''}"
            raise changed(self.journal.path, 1, f"blocks is {dict(blocks)}, but {needed}")
        first = next(iter(self.journal.entries), None)
        if first is not None and len(first.genome) != self.space.dim:
            found = f"its genome has {len(first.genome)} numbers, and this search's have {self.space.dim}"
            raise changed(self.journal.path, first.line or 0, f"{first.kind} {first.index}: {found}")

    def check_begun(self) -> None:
        """Raise RunMismatch before the first candidate."""
        if not self.journal.candidates:
            raise RunMismatch(f"{self.folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")

    # Stages

    @property
    def stage_name(self) -> str | None:
        """The stage that a hybrid has reached; None for a run of one search."""
        return list(self.stages)[-1] if self.stages else None

    @property
    def searches(self) -> Mapping[str, "Run"]:
        """The run of each search by the name of its stage; the name of a run's only search is empty."""
        return self.stages or {"": self}

    def stage(self, name: str) -> "Run":
        """Return a hybrid's stage, `ps` or `path`. Raises RunMismatch if the run has no such stage, or not yet."""
        if name not in self.stages:
            raise RunMismatch(f"{self.folder}: has no stage {name}. It has: {', '.join(self.stages) or 'no stages'}.")
        return self.stages[name]

    @property
    def finished(self) -> bool:
        """Whether the run has ended; a hybrid ends with its second stage."""
        return self.journal.mean is not None and self.stage_name != PS

    @property
    def stopped_by(self) -> str | None:
        """The key of the budget that ended the search."""
        return self.journal.stop.reason if self.journal.stop else None

    @property
    def seconds(self) -> float:
        """How long the search has taken, by the wall clock."""
        return sum(entry.wall_s for entry in self.journal.entries)

    @property
    def peak_memory(self) -> Mapping[str, int]:
        """The most memory that the search used, in bytes by place; empty if its result does not say.

        It depends on the machine, so it is in result.json and not in the journal.
        """
        try:
            result = read_json(self.folder / RESULT_FILE)
        except (OSError, ValueError):
            return {}
        found = result.get(PEAK_MEMORY) if isinstance(result, dict) else None
        if not isinstance(found, dict):
            return {}
        return {place: found[place] for place in MEMORY_PLACES if type(found.get(place)) is int and found[place] > 0}

    # What was searched

    @property
    def template(self) -> Template:
        """What the search keeps fixed in every recipe."""
        return self.config.template(relative_to=None)

    @cached_property
    def space(self) -> Space:
        """The space of recipes that is searched."""
        return self.config.space_for(self.journal.blocks)

    @property
    def models(self) -> Mapping[str, ModelRef]:
        """Every model of the search by its part in a recipe (`host`, `sources.ja`)."""
        return self.template.first_recipe().models()

    @cached_property
    def objective(self) -> Objective | None:
        """What the search maximises, from the journal alone; None as long as nothing has been scored."""
        first = next((entry for entry in self.journal.entries if entry.evaluation), None)
        if first is None or first.evaluation is None:
            return None
        scores, tasks = first.evaluation.scores, self.config.tasks
        if len(scores) != len(tasks):
            found = f"it has scores of {len(scores)} tasks, and the search scores {len(tasks)}"
            raise changed(self.journal.path, first.line or 0, f"{first.kind} {first.index}: {found}")
        # In the order of the config's tasks, which may be files that no longer exist.
        weights = {name: task.weight for name, task in zip(scores, tasks, strict=True)}
        return self.config.objective.objective(weights, parents=self.journal.parents)

    @property
    def goals(self) -> tuple[str, ...]:
        """The names of the goals whose trade-off is searched for; empty if the search has a single goal."""
        return tuple(map(str, self._goals))

    @property
    def _goals(self) -> tuple[Goal, ...]:
        if not self.config.objective.pareto or self.objective is None:
            return ()
        return self.objective.all_goals

    @property
    def warnings(self) -> tuple[str, ...]:
        """What `check` reports on the searches: rope, vocabularies, report samples that the search sees.

        All models must be on this machine: nothing is fetched. Pictures are not compared, which would take minutes.
        """
        # It imports torch.
        from evovlm.runs.before.preflight import preflight_search

        found: dict[str, None] = {}
        for run in self.searches.values():
            look = preflight_search(run.config.model_copy(update={"guard": None}))
            found |= dict.fromkeys((*look.warnings, *map(str, look.problems)))
        return tuple(found)

    # What was found

    @property
    def candidates(self) -> tuple[RunCandidate, ...]:
        """All candidates with their recipes, in the order of the search."""
        return tuple(map(self._with_recipe, self.journal.candidates))

    @property
    def generations(self) -> tuple[tuple[Entry, ...], ...]:
        """The candidates of each generation."""
        groups = itertools.groupby(self.journal.candidates, key=lambda entry: entry.generation)
        return tuple(tuple(entries) for _, entries in groups)

    @property
    def failures(self) -> tuple[tuple[int, str], ...]:
        """The index and the reason of everything that failed, means included."""
        entries = (entry for entry in self.journal.entries if entry.kind != "part")
        return tuple((entry.index, entry.failure.reason) for entry in entries if entry.failure)

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """The candidates that were evaluated, the fittest first."""
        return _fittest_first(self.journal.candidates)

    def violated(self, entry: Entry) -> tuple[Constraint, ...]:
        """Return the constraints that an entry violates."""
        if entry.evaluation is None or self.objective is None:
            return ()
        return self.objective.violated(entry.evaluation.scores)

    @property
    def snapshots(self) -> Mapping[int, float]:
        """The fitness of the distribution's mean on the validation samples, by generation; failed ones are left out."""
        return {each.generation: each.evaluation.fitness for each in self.journal.snapshots if each.evaluation}

    @property
    def mean_fitness(self) -> float | None:
        """The fitness of the distribution's mean at the end of the search."""
        mean = self.journal.mean
        return mean.evaluation.fitness if mean is not None and mean.evaluation else None

    @property
    def rescored(self) -> tuple[Rescored, ...]:
        """The best candidates scored in full, the fittest first; after the search the mean is among them."""
        estimated = {entry.index: entry.evaluation.fitness for entry in self.journal.candidates if entry.evaluation}
        if not _fittest_first(self.journal.rescored):
            return ()
        mean = [self.journal.mean] if self.journal.mean is not None else []
        return tuple(
            Rescored(
                candidate=None if entry.kind == "mean" else entry.index,
                recipe_id=entry.recipe_id,
                search_fitness=None if entry.kind == "mean" else estimated[entry.index],
                fitness=entry.evaluation.fitness,
            )
            for entry in _fittest_first([*self.journal.rescored, *mean])
            if entry.evaluation
        )

    # Who won

    @cached_property
    def best_entry(self) -> Entry | None:
        """The best snapshot where the config asks for one, else the best candidate: of those scored again, if any.

        None if all failed.
        """
        if self.config.winner == "snapshot":
            found = self.journal.snapshots
        else:
            again = [entry for entry in self.journal.rescored if entry.evaluation]
            found = tuple(again) or self.journal.candidates
        return next(iter(best_distinct(found, 1)), None)

    @cached_property
    def winner_entry(self) -> Entry | None:
        """The winner so far; None if all failed.

        That is the mean where the config asks for it and the search has ended. Where candidates were scored again, the
        mean was scored on the same samples, and wins if it is better.
        """
        mean, best = self.journal.mean, self.best_entry
        if self.config.winner == "mean" and mean is not None:
            return mean
        is_open = self.config.winner == "best" and best is not None and best.kind == "rescored"
        if not is_open or best is None or best.evaluation is None or mean is None or mean.evaluation is None:
            return best
        return mean if mean.evaluation.fitness > best.evaluation.fitness else best

    @property
    def winner_kind(self) -> Winner:
        """What won so far: the best candidate, the mean, or a snapshot."""
        kind = self.winner_entry.kind if self.winner_entry is not None else ""
        kinds: Mapping[str, Winner] = {"mean": "mean", "snapshot": "snapshot"}
        return kinds.get(kind, "best")

    @property
    def winner_file(self) -> Path:
        """The file that the winner's recipe is written to at the end of the search."""
        kind = "mean" if self.winner_kind == "mean" else self.config.winner
        return self.folder / winner_file(kind)

    @cached_property
    def winner(self) -> Recipe | None:
        """The winner's recipe; None if all failed."""
        return self.space.decode(self.winner_entry.genome) if self.winner_entry is not None else None

    @property
    def fitness(self) -> float | None:
        """The winner's fitness."""
        entry = self.winner_entry
        return entry.evaluation.fitness if entry is not None and entry.evaluation else None

    @cached_property
    def description(self) -> Description:
        """The winner's numbers, choices and path; empty if all failed."""
        return self.space.describe(self.winner_entry.genome) if self.winner_entry is not None else Description()

    # One candidate out of many

    def front(self, goals: tuple[Goal, ...] | None = None) -> tuple[FrontPoint, ...]:
        """Return the Pareto front over goals (None: the search's), the best in the first of them first.

        Candidates that violate a constraint are left out, and those that were scored on fewer samples than others. Of
        candidates with the same recipe, the first counts. Empty in a search without goals.
        """
        sought = self._goals if goals is None else goals
        points = [
            FrontPoint(entry=entry, goals={str(goal): goal.value(entry.evaluation.scores) for goal in sought})
            for entry in (self._comparable() if sought else ())
            if entry.evaluation
        ]
        chosen = [points[index] for index in pareto.front([tuple(point.goals.values()) for point in points])]
        # Stable, so that the earlier of equals comes first.
        return tuple(sorted(chosen, key=lambda point: tuple(-value for value in point.goals.values())))

    def _comparable(self) -> list[Entry]:
        """Return one candidate of each recipe that is feasible and was scored on as many samples as any."""
        feasible: dict[str, Entry] = {}
        samples = {each.index: each.evaluation.n_samples for each in self.journal.candidates if each.evaluation}
        for entry in self.journal.candidates:
            if entry.evaluation and entry.evaluation.fitness >= 0:
                known = feasible.setdefault(entry.recipe_id, entry)
                if samples[known.index] < samples[entry.index]:
                    feasible[entry.recipe_id] = entry
        most = max(samples.values(), default=0)
        return [entry for entry in feasible.values() if samples[entry.index] == most]

    def pick(self, wanted: str) -> RunCandidate:
        """Return a candidate by what it is good at.

        `best` is the winner so far, `knee` the point of the Pareto front that gives up least of each goal, `rated` the
        one that people prefer, `task=NAME` the candidate that does best on that task and violates no constraint, a
        number the candidate of that index. Raises ConfigError for another word, an unknown task or number, RunError if
        no candidate qualifies.
        """
        entry = self.winner_entry if wanted == "best" else self._picked(wanted)
        if entry is None:
            raise RunError(f"{self.folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")
        return self._with_recipe(entry)

    def _picked(self, wanted: str) -> Entry | None:
        if wanted.isascii() and wanted.isdigit():
            candidates = self.journal.candidates
            if int(wanted) >= len(candidates):
                raise ConfigError(f"--pick {wanted}: {self.folder} has {len(candidates)} candidates, the first is 0.")
            return candidates[int(wanted)]
        if wanted == "rated":
            return self._preferred()
        if self.objective is None:
            return None
        if wanted == "knee":
            points = self.front()
            if not points:
                raise RunError(
                    f"--pick knee: {self.folder} has no Pareto front (`objective: {{pareto: true}}`), or nothing is on "
                    "it yet.\n    Pick best, task=NAME, or a candidate's number."
                )
            return points[pareto.knee([tuple(point.goals.values()) for point in points])].entry
        if not wanted.startswith(_TASK):
            raise ConfigError(f"--pick: '{wanted}' is unknown. Write {PICKS}.")
        name = wanted.removeprefix(_TASK)
        if name not in self.objective.weights:
            hint = did_you_mean(name, self.objective.weights)
            raise ConfigError(f"--pick {wanted}: {self.folder} does not score this task{hint}")
        best = _fittest_first(point.entry for point in self.front((Goal(task=name),)))
        if not best:
            raise RunError(f"--pick {wanted}: every candidate of {self.folder} violates a constraint.")
        return best[0]

    def _preferred(self) -> Entry:
        """Return the candidate that people prefer."""
        entries: dict[str, Entry] = {}
        for entry in (*self.journal.candidates, *self.journal.entries):
            entries.setdefault(entry.recipe_id, entry)
        rated = [key for key in Ratings.read(ratings_file(self.folder)).strengths() if key in entries]
        if not rated:
            raise RunError(
                f"--pick rated: nobody has compared candidates of {self.folder} yet.\n"
                f"    `evovlm rate {self.folder}` shows their answers side by side."
            )
        return entries[rated[0]]

    def _with_recipe(self, entry: Entry) -> RunCandidate:
        return RunCandidate(entry=entry, recipe=self.space.decode(entry.genome))


def journal_files(folder: Path) -> Mapping[str, Path]:
    """Return the journals of a run by stage, in the stages' order; the name of a run's only search is empty."""
    files = {name: folder / name / JOURNAL_FILE for name in ("", PS, PATH)}
    return {name: file for name, file in files.items() if file.is_file()}


def _fittest_first(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries that were evaluated by falling fitness; equals stay in their order."""
    found = [(entry.evaluation.fitness, entry) for entry in entries if entry.evaluation]
    return tuple(entry for _, entry in sorted(found, key=lambda each: -each[0]))
