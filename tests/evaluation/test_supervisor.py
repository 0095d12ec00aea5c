"""Workers in processes of their own: order, misfortunes, and that nothing is left behind. The jobs are stubs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from evovlm.errors import ModelNotFound, RunError
from evovlm.evaluation.workers.jobs import WorkerSettings
from evovlm.evaluation.workers.local import LocalProcesses
from evovlm.evaluation.workers.supervisor import Supervisor
from evovlm.recipes.candidate import Evaluation, Failure
from tests.evaluation.stub_workers import StubOpening, stub_job
from tests.marks import quick_and_slow

OpenStubs = Callable[..., tuple[Supervisor, LocalProcesses]]


@pytest.fixture
def open_stubs(tmp_path: Path) -> Iterator[OpenStubs]:
    """Open stub workers; they are closed after the test."""
    pools: list[LocalProcesses] = []

    def opened(n: int, *, time_limit_s: float | None = None, **opening: object) -> tuple[Supervisor, LocalProcesses]:
        stubs = StubOpening(notes=tmp_path, **opening)  # type: ignore[arg-type]
        pools.append(LocalProcesses(stubs, settings=[WorkerSettings(device="cpu", threads=1)] * n))
        return Supervisor.open(pools[-1], time_limit_s=time_limit_s), pools[-1]

    yield opened
    for pool in pools:
        pool.close()


def fitnesses(outcomes: Sequence[Evaluation | Failure]) -> list[float | str]:
    """Return each outcome's fitness, or the kind of its failure."""
    return [outcome.fitness if isinstance(outcome, Evaluation) else outcome.kind for outcome in outcomes]


def is_gone(pid: int) -> bool:
    """Whether the process does not exist, or is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(holds: Callable[[], bool], *, at_most_s: float = 60.0) -> None:
    """Wait until it holds."""
    until = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_outcomes_come_in_the_order_of_the_jobs(open_stubs: OpenStubs, tmp_path: Path) -> None:
    workers, _ = open_stubs(2, seconds={0.0: 0.5})
    weights = [0.0, 1.0, 2.0, 3.0]
    assert fitnesses(list(workers.outcomes([stub_job(weight) for weight in weights]))) == weights
    assert (dict(workers.sizes), dict(workers.blocks), workers.warnings) == ({"stub": 3}, {"a": 2}, ("a stub",))
    # While one worker was at the first, the other did the rest.
    pids = [(tmp_path / f"done-{weight}").read_text() for weight in weights]
    assert pids[1] == pids[2] == pids[3] != pids[0]


@pytest.mark.parametrize("what", quick_and_slow(["die", "out_of_memory", "bug"], quick=2))
def test_a_job_whose_worker_fails_is_done_by_another(what: str, open_stubs: OpenStubs, tmp_path: Path) -> None:
    workers, _ = open_stubs(2, misfortunes={1.0: f"{what} once"})
    assert fitnesses(list(workers.outcomes([stub_job(weight) for weight in (0.0, 1.0, 2.0)]))) == [0.0, 1.0, 2.0]
    first, second = (tmp_path / "done-1.0").read_text().split()
    assert first != second
    assert fitnesses(list(workers.outcomes([stub_job(3.0)]))) == [3.0]


@pytest.mark.parametrize(("what", "kind"), [("die", "worker_lost"), ("out_of_memory", "out_of_memory")])
def test_a_job_that_fails_twice_is_a_failure_and_the_others_go_on(what: str, kind: str, open_stubs: OpenStubs) -> None:
    workers, _ = open_stubs(1, misfortunes={1.0: what})
    outcomes = list(workers.outcomes([stub_job(weight) for weight in (0.0, 1.0, 2.0)]))
    assert fitnesses(outcomes) == [0.0, kind, 2.0]


def test_a_job_that_takes_too_long_is_tried_again_and_is_then_a_failure(open_stubs: OpenStubs) -> None:
    workers, pool = open_stubs(1, time_limit_s=0.3, misfortunes={1.0: "hang", 2.0: "hang once"})
    before = pool.process_ids
    outcomes = list(workers.outcomes([stub_job(weight) for weight in (0.0, 1.0, 2.0)]))
    assert fitnesses(outcomes) == [0.0, "timed_out", 2.0]
    assert isinstance(outcomes[1], Failure)
    assert "0.3" not in outcomes[1].reason
    assert is_gone(before[0])


def test_a_worker_killed_while_it_has_nothing_to_do_is_replaced(open_stubs: OpenStubs) -> None:
    workers, pool = open_stubs(2)
    for pid in pool.process_ids:
        os.kill(pid, signal.SIGKILL)
    assert fitnesses(list(workers.outcomes([stub_job(weight) for weight in (0.0, 1.0)]))) == [0.0, 1.0]


def test_late_outcomes_are_not_taken_for_those_of_another_job(open_stubs: OpenStubs) -> None:
    workers, _ = open_stubs(2, seconds={1.0: 0.5})
    left = workers.outcomes([stub_job(weight) for weight in (0.0, 1.0, 2.0)])
    assert fitnesses([next(left)]) == [0.0]
    assert fitnesses(list(workers.outcomes([stub_job(weight) for weight in (4.0, 5.0, 6.0)]))) == [4.0, 5.0, 6.0]


def test_what_keeps_workers_from_opening_is_raised_and_leaves_none(open_stubs: OpenStubs, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with pytest.raises(ModelNotFound, match="no such model"):
        open_stubs(2, refuse=tmp_path / "refuse")


def test_when_no_worker_can_be_started_any_more_the_reason_is_raised(open_stubs: OpenStubs, tmp_path: Path) -> None:
    workers, pool = open_stubs(2, refuse=tmp_path / "refuse", misfortunes={1.0: "die", 2.0: "die"})
    (tmp_path / "refuse").touch()
    with pytest.raises(ModelNotFound, match="no such model"):
        list(workers.outcomes([stub_job(weight) for weight in (1.0, 2.0)]))
    assert pool.process_ids == ()


def test_one_worker_that_cannot_be_started_again_is_done_without(open_stubs: OpenStubs, tmp_path: Path) -> None:
    workers, pool = open_stubs(2, refuse=tmp_path / "refuse", misfortunes={1.0: "die once"})
    (tmp_path / "refuse").touch()
    weights = [0.0, 1.0, 2.0, 3.0]
    assert fitnesses(list(workers.outcomes([stub_job(weight) for weight in weights]))) == weights
    wait_until(lambda: fitnesses(list(workers.outcomes([stub_job(4.0)]))) == [4.0] and len(pool.process_ids) == 1)


def test_a_worker_that_ends_while_it_opens_is_reported_with_what_to_do(tmp_path: Path) -> None:
    # What cannot be unpickled there ends the worker.
    opening = StubOpening(notes=tmp_path, seconds=_Unreadable())  # type: ignore[arg-type]
    pool = LocalProcesses(opening, settings=[WorkerSettings(device="cpu")])
    with pytest.raises(RunError, match=r"(?s)worker 1 of 1 ended.*exit code 1.*fewer workers"):
        Supervisor.open(pool)
    assert pool.process_ids == ()


class _Unreadable:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


def test_closing_ends_every_worker_at_once_whatever_it_does(open_stubs: OpenStubs, tmp_path: Path) -> None:
    workers, pool = open_stubs(2, misfortunes={0.0: "hang"})
    pids = pool.process_ids
    outcomes = workers.outcomes([stub_job(1.0), stub_job(0.0)])
    next(outcomes)
    workers.close()
    assert all(map(is_gone, pids))


DRIVER = """
import signal
import sys
from pathlib import Path
from evovlm.evaluation.workers.local import LocalProcesses
from evovlm.evaluation.workers.supervisor import Supervisor
from evovlm.evaluation.workers.jobs import WorkerSettings
from tests.evaluation.stub_workers import StubOpening, stub_job

# A shell starts what it runs in the background with this signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
pool = LocalProcesses(
    StubOpening(notes=Path(sys.argv[1]), misfortunes={0.0: "hang"}), settings=[WorkerSettings(device="cpu")] * 2
)
workers = Supervisor.open(pool)
print(*pool.process_ids, flush=True)
list(workers.outcomes([stub_job(0.0)]))
"""


@pytest.mark.parametrize("number", quick_and_slow([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], quick=1))
def test_workers_end_with_their_driver_however_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        # One of them is at work, the other waits.
        wait_until((tmp_path / "done-0.0").exists)
        assert len(pids) == 2
        assert not any(map(is_gone, pids))
        driver.send_signal(number)
        driver.wait()
    wait_until(lambda: all(map(is_gone, pids)))
