"""Sends the course of a search, generation by generation, to TensorBoard or Weights & Biases, which are extras.

Each start sends the whole course again, from the journal's first generation on, so that nothing is missing or doubled
after a run was killed: the new files of TensorBoard begin at step 0, and a run of Weights & Biases has one id.
"""

import hashlib
import statistics
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evovlm.errors import ConfigError
from evovlm.files import explained, inner_folder
from evovlm.recipes.candidate import Evaluation
from evovlm.runs.config.execution import LogSection, WandbSection
from evovlm.runs.folder.entries import Entry
from evovlm.runs.searching.search import Observer
from evovlm.search.loop import Generation

TENSORBOARD_FOLDER = "tensorboard"


class Tracker(Protocol):
    """Takes the figures of one generation after another and stores them."""

    def generation(self, number: int, figures: Mapping[str, float]) -> None:
        """Take a generation's figures; numbers count from 0."""
        ...

    def close(self) -> None:
        """Write what is not yet written."""
        ...


class TensorBoard:
    """Writes event files."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # This discards the steps in earlier files.
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)

    def generation(self, number: int, figures: Mapping[str, float]) -> None:
        """Write each figure as a scalar."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases with the config and the figures, and nothing about the machine, its code or its git."""

    def __init__(self, section: WandbSection, *, folder: Path, config: Mapping[str, object]) -> None:
        import wandb

        _check_settings_of_folder()
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self._run: Any = wandb.init(
            project=section.project,
            entity=section.entity,
            name=folder.name,
            id=hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest(),
            # Offline, every start writes a file of its own, and all are sent as one run.
            resume="allow" if section.mode == "online" else None,
            mode=section.mode,
            dir=str(folder),
            config=dict(config),
            settings=settings,
        )

    def generation(self, number: int, figures: Mapping[str, float]) -> None:
        """Log the figures as one step."""
        self._run.log(dict(figures), step=number)

    def close(self) -> None:
        """End the run, waiting until everything is on disk or sent."""
        self._run.finish()


def _check_settings_of_folder() -> None:
    """Raise ConfigError for a settings file in the current folder that would have wandb send its key elsewhere."""
    for name in ("wandb", ".wandb"):
        file = Path(name, "settings")
        text = file.read_text(encoding="utf-8", errors="replace").lower() if file.is_file() else ""
        if any(word in text for word in ("base_url", "proxy", "header", "api_key")):
            raise ConfigError(
                f"{file.absolute()}: this settings file of Weights & Biases names where to send runs and their key.\n"
                "    Remove the file, or start from another folder; WANDB_BASE_URL names a server, too."
            )


class TrackingObserver:
    """An observer that sends the figures to trackers, and everything to another observer, if any."""

    def __init__(self, trackers: tuple[Tracker, ...], *, observer: Observer | None) -> None:
        self._trackers = trackers
        self._observer = observer
        self._tokens = 0
        self._seconds = 0.0
        self._candidates = 0
        self._failures = 0
        self._best = -np.inf

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        """Pass it on."""
        if self._observer is not None:
            self._observer.started(candidates=candidates, generations=generations, done=done, warnings=warnings)

    def evaluated(self, entry: Entry) -> None:
        """Count a candidate."""
        self._candidates += 1
        self._seconds += entry.wall_s
        if entry.evaluation:
            self._tokens += entry.evaluation.tokens
        else:
            self._failures += 1
        if self._observer is not None:
            self._observer.evaluated(entry)

    def generation_ended(self, generation: Generation) -> None:
        """Send a generation's figures to the trackers."""
        known = [outcome.evaluation for outcome in generation.outcomes if outcome.evaluation]
        self._best = max(self._best, *(each.fitness for each in known))
        figures = {
            "fitness/best_so_far": self._best,
            **_of_generation(generation, known),
            "cost/tokens": float(self._tokens),
            "cost/seconds": self._seconds,
            "cost/candidates": float(self._candidates),
            "cost/failures": float(self._failures),
        }
        for tracker in self._trackers:
            tracker.generation(generation.number, figures)
        if self._observer is not None:
            self._observer.generation_ended(generation)


def open_trackers(
    section: LogSection, *, folder: Path, config: Mapping[str, object], stack: ExitStack
) -> tuple[Tracker, ...]:
    """Return the trackers of a run in `folder`; `stack` closes them."""
    trackers: list[Tracker] = []
    if section.tensorboard:
        with explained(folder):
            tensorboard = TensorBoard(inner_folder(folder, TENSORBOARD_FOLDER))
        trackers.append(stack.enter_context(closing(tensorboard)))
    if section.wandb is not None:
        # wandb writes into this folder.
        inner_folder(folder, "wandb")
        wandb = WeightsAndBiases(section.wandb, folder=folder, config=config)
        trackers.append(stack.enter_context(closing(wandb)))
    return tuple(trackers)


def _of_generation(generation: Generation, known: list[Evaluation]) -> Mapping[str, float]:
    """Return the figures of one generation: fitness, scores by task, and the spread of its genomes.

    `search/spread` is the root mean square of the genes' standard deviations in the unit cube: with CMA-ES, about its
    step size as drawn.
    """
    best = max(known, key=lambda each: each.fitness)
    genomes = np.array([proposal.genome for proposal in generation.proposals])
    figures = {
        "fitness/best": best.fitness,
        "fitness/mean": statistics.fmean(each.fitness for each in known),
        "search/spread": float(np.sqrt(genomes.var(axis=0).mean())),
    }
    for name in best.scores:
        figures[f"best/{name}"] = best.scores[name].score
        figures[f"mean/{name}"] = statistics.fmean(each.scores[name].score for each in known)
    return figures
