"""Measure how a search scales with workers, with candidates of known cost and with the embedded models.

    python benchmarks/worker_scaling.py known        # real loop, journal and pipes; simulated cost
    python benchmarks/worker_scaling.py real         # the embedded models, 1 and 2 workers

Prints Markdown. `efficiency` is the total time of the candidates divided by workers x wall clock; `within generations`
excludes the distribution's mean, which is scored alone at the end. `driver` is the processor time of the driving
process per candidate: ask, decode, send, tell, and write a journal line to disk.
"""

import argparse
import json
import os
import pickle
import tempfile
import time
from pathlib import Path

from known_cost import TASK, KnownCost

from evovlm.evaluation.workers.jobs import Job, WorkerSettings
from evovlm.evaluation.workers.local import LocalProcesses
from evovlm.evaluation.workers.supervisor import Supervisor
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.searching.evolve import evolve, open_search

BLOCKS = 32
SAMPLES = 200
SOURCES = ("ja", "math-a", "math-b")


def document(*, candidates: int, population: int, limit: int | None = None) -> dict[str, object]:
    """Return a layer-wise search over three sources."""
    return {
        "format": 1,
        "kind": "evolve",
        "seed": 1,
        "merge": {
            "base": "zoo:base",
            "sources": {name: f"zoo:{name}" for name in SOURCES},
            "method": "dare_ties",
            "seed": 1,
        },
        "space": {"kind": "layer"},
        "optimizer": {"kind": "cma", "population": population},
        "budget": {"candidates": candidates},
        "tasks": [{"name": TASK, **({} if limit is None else {"limit": limit})}],
        "device": "cpu",
    }


def known(seconds: float, workers: int, *, spread: float, population: int) -> dict[str, float]:
    """Run the real loop with candidates of a known cost."""
    config = EvolveConfig.model_validate(document(candidates=3 * population, population=population))
    config = config.resolved(relative_to=None)
    opening = KnownCost(seconds=seconds, n_samples=SAMPLES, n_blocks=BLOCKS, sources=SOURCES, spread=spread)
    pool = LocalProcesses(opening, settings=[WorkerSettings(device="cpu", threads=1)] * workers)
    supervisor = Supervisor.open(pool)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = open_search(Path(folder), config=config, workers=supervisor, journal=None, parents={})
            wall, processor = time.perf_counter(), time.process_time()
            run.finish(observer=None, warnings=())
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            entries = run.journal.entries
            line_bytes = (Path(folder) / "journal.jsonl").stat().st_size / len(entries)
    finally:
        supervisor.close()
    n = len(entries)
    # The mean is scored alone at the end, while the others wait.
    return {
        "wall": wall,
        "efficiency": n * seconds / (workers * wall),
        "generations": (n - 1) * seconds / (workers * (wall - seconds)),
        "driver_ms": 1000 * processor / n,
        "line_bytes": line_bytes,
    }


def message_bytes() -> tuple[int, int]:
    """Return the bytes of a job and of its outcome, as they are sent."""
    config = EvolveConfig.model_validate(document(candidates=64, population=64)).resolved(relative_to=None)
    space = config.space_for(dict.fromkeys(SOURCES, BLOCKS))
    job = Job(recipe=space.decode(space.initial))
    opening = KnownCost(seconds=0.0, n_samples=SAMPLES, n_blocks=BLOCKS, sources=SOURCES)
    outcome = next(iter(opening.open(WorkerSettings(device="cpu")).outcomes([job])))
    return len(pickle.dumps(job)), len(pickle.dumps(outcome))


def print_known() -> None:
    """Print the cost of the loop."""
    job, outcome = message_bytes()
    print(
        f"A job is {job} bytes, its outcome {outcome} ({BLOCKS} blocks, {len(SOURCES)} sources, {SAMPLES} samples).\n"
    )
    print("| candidate costs | workers | wall clock | efficiency | within generations | driver |")
    print("|---|---:|---:|---:|---:|---:|")
    for seconds, spread in ((0.05, 0.0), (0.5, 0.0), (0.5, 0.5)):
        for workers in (1, 2, 4, 8):
            found = known(seconds, workers, spread=spread, population=32)
            cost = f"{seconds:g} s" + (f" +- {100 * spread:.0f} %" if spread else "")
            print(
                f"| {cost} | {workers} | {found['wall']:.2f} s | {100 * found['efficiency']:.1f} % "
                f"| {100 * found['generations']:.1f} % | {found['driver_ms']:.1f} ms |",
                flush=True,
            )


def print_real() -> None:
    """Print the results of the embedded models, with alternating runs, so that other work affects both."""
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, one thread per worker.\n")
    # The first merge on a machine compiles, and the first run reads the models from disk.
    _, expected = real(2)
    print("| workers | opening | scoring | candidates | same journal |")
    print("|---:|---:|---:|---:|---|")
    for workers in (1, 2, 2, 1, 1, 2):
        found, journal = real(workers)
        print(
            f"| {workers} | {found['opening']:.1f} s | {found['scoring']:.1f} s | {found['candidates']} "
            f"| {'yes' if journal == expected else 'NO'} |",
            flush=True,
        )


def real(workers: int) -> tuple[dict[str, float], str]:
    """Search with the embedded models; return the times and the lines of the journal."""
    config = EvolveConfig.model_validate({**document(candidates=32, population=8, limit=64), "time_limit_s": 3600.0})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        watch = FirstStart()
        evolve(config.with_workers(workers), out=Path(folder) / "run", observer=watch)
        ended = time.perf_counter()
        entries = read_journal(Path(folder) / "run/journal.jsonl").entries
    found = {"opening": watch.at - started, "scoring": ended - watch.at, "candidates": len(entries)}
    return found, json.dumps([[entry.recipe_id, repr(getattr(entry.outcome, "scores", None))] for entry in entries])


class FirstStart:
    """Records when the workers are open."""

    at = 0.0

    def started(self, **_: object) -> None:
        """Record the time."""
        self.at = time.perf_counter()

    def evaluated(self, _entry: object) -> None:
        """Do nothing."""

    def generation_ended(self, _generation: object) -> None:
        """Do nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["known", "real"])
    {"known": print_known, "real": print_real}[parser.parse_args().what]()
