"""A real process, killed with SIGKILL at random moments and resumed, ends with the journal of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evovlm.runs.searching.evolve import RunResult
from evovlm.seeding import generator
from tests.runs.conftest import WriteConfig, journal_rows, racing_document

KILLS = 5


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evovlm", "evolve", str(config), "--out", str(run), "--resume"]
    # One thread, as in the run that it is compared with: sums over several come in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def n_lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("racing", [False, True])
def test_a_run_killed_at_random_moments_ends_with_the_journal_of_one_that_was_not(
    racing: bool, request: pytest.FixtureRequest, write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    whole_run: RunResult = request.getfixturevalue("raced" if racing else "whole_run")
    config, run = write_config(racing_document(models) if racing else {}), tmp_path / "run"
    # A race has a line for each candidate's blocks, too.
    moments, reach = generator("moments of death", 1), 9 if racing else 3
    for kill in range(KILLS):
        # Once during the start, before there is any journal; then after a few further lines, if any, and a bit.
        wanted = 0 if kill == 0 else max(1, n_lines(run / "journal.jsonl")) + int(moments.integers(0, reach))
        with start(config, run) as process:
            while process.poll() is None and n_lines(run / "journal.jsonl") < wanted:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert n_lines(run / "journal.jsonl") > 1
    with start(config, run) as process:
        assert process.wait() == 0
    assert journal_rows(run) == journal_rows(whole_run.folder)
    for name in ("config.yaml", "best.yaml", "mean.yaml"):
        assert (run / name).read_bytes() == (whole_run.folder / name).read_bytes()
