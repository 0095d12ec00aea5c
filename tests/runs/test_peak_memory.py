"""The memory that a run used."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from evovlm.runs.run import PEAK_MEMORY, Run
from evovlm.runs.searching.evolve import RunResult
from evovlm.runs.workers import peak_memory


def test_the_peak_of_this_process_is_between_what_python_with_torch_needs_and_all_there_is() -> None:
    before = peak_memory()["process"]
    assert 50e6 < before < 1e12
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    # The system counts pages late: what is used now can be more than the peak that it gives.
    held = bytearray(max(0, before - now) + 100_000_000)
    assert peak_memory()["process"] >= before + 90_000_000
    assert held[-1] == 0


def test_a_runs_result_says_it_and_its_journal_does_not(whole_run: RunResult) -> None:
    found = Run.open(whole_run.folder).peak_memory
    assert found == dict(whole_run.peak_memory)
    assert found["process"] > 50e6
    assert PEAK_MEMORY not in (whole_run.folder / "journal.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"peak_memory_bytes": 3}', '{"peak_memory_bytes": {"process": "<b>", "gpu": -1, "x": 2}}']
)
def test_a_result_that_does_not_say_it_gives_nothing(whole_run: RunResult, tmp_path: Path, text: str) -> None:
    run = replace(Run.open(whole_run.folder), folder=tmp_path)
    assert run.peak_memory == {}
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    assert run.peak_memory == {}


def test_only_what_is_known_of_it_is_read(whole_run: RunResult, tmp_path: Path) -> None:
    result = {PEAK_MEMORY: {"process": 5, "gpu": True, "other": 7}}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert replace(Run.open(whole_run.folder), folder=tmp_path).peak_memory == {"process": 5}
