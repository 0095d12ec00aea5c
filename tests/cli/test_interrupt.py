"""Ctrl-C: nothing is lost, and the run resumes to the same result."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evovlm.cli.signals import stopping
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal
from tests.cli.conftest import Command, write_config
from tests.marks import quick_and_slow

PATIENCE_S = 120.0
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def lines_in(journal: Path) -> int:
    """Count the whole lines of a journal that may not be there yet."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def rows_of(journal: Path) -> list[dict[str, object]]:
    """Return the journal's rows without the seconds, which must come last in their line."""
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert all(list(row)[-1] == "seconds" for row in rows[1:])
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def wait_for_lines(journal: Path, count: int, *, process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until the journal has `count` lines, or the process has ended."""
    until = time.monotonic() + PATIENCE_S
    while lines_in(journal) < count and (process is None or process.poll() is None):
        assert time.monotonic() < until, "the search does not get on"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """Take no signal as ignored: a shell has its background jobs ignore SIGINT, and `nohup` ignores SIGHUP."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {each: signal.signal(each, handler) for each, handler in usual.items()}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals], None]:
    """Send this process a signal, as Ctrl-C sends SIGINT, once, right after its journal's third candidate."""

    def arm(by: signal.Signals) -> None:
        append, entries = Journal.append, list[Entry]()

        def interrupted(self: Journal, entry: Entry) -> None:
            append(self, entry)
            entries.append(entry)
            if len(entries) == 3:
                os.kill(os.getpid(), by)

        monkeypatch.setattr(Journal, "append", interrupted)

    return arm


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Start a real `evovlm` process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "evovlm", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.mark.parametrize(("by", "code"), quick_and_slow(SIGNALS, quick=1))
def test_a_signal_stops_with_its_code_and_a_command_that_resumes_to_the_same_journal(
    evovlm: Command,
    config: Path,
    finished_once: Path,
    interrupting: Callable[[signal.Signals], None],
    tmp_path: Path,
    by: signal.Signals,
    code: int,
) -> None:
    run = tmp_path / "a run"
    interrupting(by)
    stopped = evovlm("evolve", config, "--out", run)
    assert stopped.code == code, stopped
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert "Traceback" not in stopped.err
    assert stopped.out == ""
    advice = re.search(r"^    evovlm (evolve .*--resume)$", stopped.err, re.MULTILINE)
    assert advice is not None, stopped.err
    before = lines_in(run / "journal.jsonl")
    assert before == 4
    resumed = evovlm(*shlex.split(advice[1]))
    assert resumed.code == 0, resumed.err
    assert f"resuming after {before - 1} of 8 candidates" in resumed.err
    assert rows_of(run / "journal.jsonl") == rows_of(finished_once / "run" / "journal.jsonl")
    for name in ("best.yaml", "mean.yaml"):
        ours, theirs = ((folder / name).read_text() for folder in (run, finished_once / "run"))
        assert ours.split("parameters:")[1] == theirs.split("parameters:")[1]


@pytest.mark.slow
def test_a_real_process_takes_ctrl_c_and_refuses_a_second_one_beside_it(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, budget={"candidates": 4000})
    run = tmp_path / "run"
    process = start("evolve", config, "--out", run)
    try:
        wait_for_lines(run / "journal.jsonl", 3, process=process)
        beside = evovlm("evolve", config, "--out", run, "--resume")
        assert beside.code == 2
        assert "another process" in beside.err
        looked_at = evovlm("show", run, "--json")
        assert json.loads(looked_at.out)["candidates"] >= 2
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "--resume" in err


@pytest.mark.parametrize(("by", "code"), SIGNALS)
def test_a_signal_in_any_command_ends_it_without_a_traceback(
    evovlm: Command, monkeypatch: pytest.MonkeyPatch, by: signal.Signals, code: int
) -> None:
    def interrupted(*_: object, **_options: object) -> None:
        os.kill(os.getpid(), by)
        time.sleep(PATIENCE_S)

    monkeypatch.setattr("evovlm.evaluation.predictions.read_predictions", interrupted)
    stopped = evovlm("grade", "rows.jsonl", "--metric", "accuracy")
    assert (stopped.code, stopped.out) == (code, "")
    assert stopped.err == ("\nstopped\n" if by == signal.SIGINT else "")


def test_what_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


IMPORTING = """
import os, signal, sys, time
from pathlib import Path

Path(sys.argv[1], "slow_to_import.py").write_text(
    "import os, signal, time\\n"
    "for _ in range(int(os.environ['SIGNALS'])):\\n"
    "    os.kill(os.getpid(), signal.SIGINT)\\n"
    "    time.sleep(0.2)\\n"
    "print('imported', flush=True)\\n"
)
sys.path.insert(0, sys.argv[1])
from evovlm.cli.signals import ending_cleanly
signal.signal(signal.SIGINT, signal.default_int_handler)

def run():
    with ending_cleanly():
        import slow_to_import
        time.sleep(60)

try:
    run()
except KeyboardInterrupt:
    print("raised")
"""


@pytest.mark.parametrize(("signals", "out", "code"), [("1", "imported\nraised\n", 0), ("2", "", 130)])
def test_ctrl_c_waits_for_an_import_unless_it_comes_twice(tmp_path: Path, signals: str, out: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTING, str(tmp_path)],
        env={**os.environ, "SIGNALS": signals},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (code, out), ended.stderr
    assert ended.stderr == ("" if code == 0 else "\nstopped\n")


IN_A_DESTRUCTOR = """
import os, signal, sys, time
from evovlm.cli.signals import ending_cleanly
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupts:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(0.01)

def run():
    with ending_cleanly():
        Interrupts()
        time.sleep(60)

try:
    run()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("by", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_in_a_destructor_ends_the_command(by: str, code: int) -> None:
    """Python ignores exceptions that a destructor raises, KeyboardInterrupt included."""
    words = [sys.executable, "-c", IN_A_DESTRUCTOR, by]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


FIRST_IMPORTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "evovlm.cli.app":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from evovlm.__main__ import main
main()
"""


def test_ctrl_c_during_the_first_imports_ends_with_one_line() -> None:
    words = [sys.executable, "-c", FIRST_IMPORTS]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "\nstopped\n")
