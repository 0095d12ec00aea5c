"""The same search with any number of workers; what is refused before any is started."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evovlm.errors import ConfigError, ModelNotFound, NotEnoughRoom, RunError
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.workers import local as local_workers
from evovlm.evaluation.workers.local import LocalProcesses
from evovlm.runs import workers as run_workers
from evovlm.runs.before import preflight
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.execution import RaySection
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.runs.workers import open_workers
from evovlm.search.loop import Generation
from tests.runs.conftest import WriteConfig, journal_rows, task_section

slow = pytest.mark.slow


class AtCandidate:
    """Does something once the candidate of an index has its outcome."""

    def __init__(self, index: int, *, do: str, pools: list[LocalProcesses]) -> None:
        self.index, self.do, self.pools = index, do, pools

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """Nothing yet."""

    def evaluated(self, entry: Entry) -> None:
        """Kill one worker, or stop like Ctrl-C."""
        if entry.index != self.index:
            return
        if self.do == "stop":
            raise KeyboardInterrupt
        os.kill(self.pools[-1].process_ids[0], signal.SIGKILL)

    def generation_ended(self, generation: Generation) -> None:
        """Nothing then."""


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[LocalProcesses]:
    """The pools that are opened meanwhile."""
    opened: list[LocalProcesses] = []

    class Noted(LocalProcesses):
        def __init__(self, *args: object, **settings: object) -> None:
            super().__init__(*args, **settings)  # type: ignore[arg-type]
            opened.append(self)

    monkeypatch.setattr(run_workers, "LocalProcesses", Noted)
    return opened


@slow
@pytest.mark.parametrize("workers", [2, 4])
def test_a_search_has_the_same_journal_with_any_number_of_workers(
    workers: int, whole_run: RunResult, config: EvolveConfig, tmp_path: Path, pools: list[LocalProcesses]
) -> None:
    result = evolve(config.with_workers(workers), out=tmp_path / "run")
    assert [each.n_slots for each in pools] == [workers]
    assert pools[0].process_ids == ()
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)
    assert result.fitness == whole_run.fitness
    for name in ("config.yaml", "best.yaml", "mean.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (whole_run.folder / name).read_bytes()


@slow
def test_a_worker_killed_in_the_middle_of_a_generation_changes_nothing(
    whole_run: RunResult, config: EvolveConfig, tmp_path: Path, pools: list[LocalProcesses]
) -> None:
    killer = AtCandidate(5, do="kill", pools=pools)
    evolve(config.with_workers(2), out=tmp_path / "run", observer=killer)
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)


@slow
def test_a_run_resumes_with_another_number_of_workers(
    whole_run: RunResult,
    config: EvolveConfig,
    evaluator: Evaluator,
    tmp_path: Path,
    pools: list[LocalProcesses],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evolve(config.with_workers(2), out=tmp_path / "run", observer=AtCandidate(5, do="stop", pools=pools))
    assert pools[0].process_ids == ()
    evolve(config.with_workers(4), out=tmp_path / "run", evaluator=evaluator, resume=True)
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)


@slow
def test_a_time_limit_makes_a_single_worker_a_separate_process(
    config: EvolveConfig, tmp_path: Path, pools: list[LocalProcesses]
) -> None:
    limited = config.model_copy(update={"time_limit_s": 300.0, "budget": config.budget.model_copy()})
    evolve(limited, out=tmp_path / "run", observer=None)
    assert [each.n_slots for each in pools] == [1]


@slow
def test_the_command_line_says_how_many_workers(
    whole_run: RunResult, write_config: WriteConfig, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "evovlm", "evolve", str(write_config()), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--workers", "2", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["search_fitness"] == whole_run.fitness
    assert journal_rows(tmp_path / "run") == journal_rows(whole_run.folder)


@slow
def test_a_model_that_no_worker_can_open_is_reported_with_its_real_cause(
    config: EvolveConfig, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "math", tmp_path / "gone")
    merge = config.merge.model_copy(update={"sources": {**config.merge.sources, "math": str(tmp_path / "gone")}})
    searched = config.model_copy(update={"merge": merge, "workers": 2}).resolved(relative_to=None)
    # Gone between the look at the headers, which would tell of it, and the opening.
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(ModelNotFound, match="gone"):
        open_workers(searched, parents={})


def test_how_a_search_is_executed_is_not_part_of_its_identity(config: EvolveConfig, write_config: WriteConfig) -> None:
    changed = {"workers": 3, "time_limit_s": 60.0}
    other = load_config(write_config(changed, name="other.yaml"))
    assert (other.workers, other.time_limit_s) == (3, 60.0)
    assert other.as_mapping() == config.as_mapping()
    assert other.to_yaml() == config.to_yaml()


def test_a_search_on_ray_has_its_workers_there(write_config: WriteConfig) -> None:
    config = load_config(write_config({"ray": {"workers": 8, "gpus_per_worker": 0.5}}))
    assert config.ray == RaySection(address="auto", workers=8, gpus_per_worker=0.5, cpus_per_worker=1.0)
    more = config.with_workers(16)
    assert more.ray is not None
    assert (more.ray.workers, more.workers) == (16, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "workers"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"workers": 2, "ray": {"workers": 4}}, "leave the other `workers` out"),
        ({"ray": {"address": "auto"}}, "ray.workers"),
        ({"ray": {"workers": 2, "gpus": 1}}, "ray.gpus"),
    ],
)
def test_workers_that_cannot_be_are_refused_in_the_file(
    changes: dict[str, object], said: str, write_config: WriteConfig
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(write_config(changes))


def test_both_stages_of_a_hybrid_have_the_same_workers(models: Path, tmp_path: Path) -> None:
    text = f"""
format: 1
kind: hybrid
workers: 2
tasks: [{{name: {models / "sums.yaml"}, data: {models / "problems.jsonl"}}}]
stages:
  ps:
    merge: {{base: {models / "base"}, sources: {{math: {models / "math"}, ja: {models / "ja"}}}, method: ties}}
    budget: {{candidates: 12}}
  path:
    merge: {{kind: layer_path, sources: {{ja: {models / "ja"}}}, scale_target: pending}}
    optimizer: {{population: 4}}
    budget: {{candidates: 4}}
"""
    path = tmp_path / "hybrid.yaml"
    path.write_text(text, encoding="utf-8")
    hybrid = load_search(path)
    assert (hybrid.ps.workers, hybrid.path.workers) == (2, 2)  # type: ignore[union-attr]
    more = hybrid.with_workers(3)
    assert (more.ps.workers, more.path.workers) == (3, 3)  # type: ignore[union-attr]
    assert more.as_mapping() == hybrid.as_mapping()
    assert "workers" not in hybrid.as_mapping()
    path.write_text(text.replace("    budget: {candidates: 12}", "    budget: {candidates: 12}\n    workers: 2"))
    with pytest.raises(ConfigError, match=r"stages.ps.workers: belongs outside of the stages"):
        load_search(path)


def test_more_workers_than_memory_holds_are_refused_with_how_many_fit(
    config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 2_000_000_000)
    with pytest.raises(NotEnoughRoom, match=r"workers: 9 .* 2.0 GB are available: 3 fit.\n    Set workers to 3"):
        evolve(config.with_workers(9), out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()
    found = preflight_search(config.with_workers(3))
    assert found.problems == ()


def test_paths_have_all_their_models_in_each_worker(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "format": 1,
        "kind": "evolve",
        "merge": {
            "kind": "layer_path",
            "host": str(models / "math"),
            "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
            "scale_target": "pending",
        },
        "optimizer": {"population": 4},
        "budget": {"candidates": 8},
        "tasks": [task_section(models)],
        "batch": None,
        "validation": None,
        "winner": "best",
        "device": "cpu",
        "workers": 2,
    }
    config = PathConfig.model_validate(document)
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 800_000_000)
    found = preflight_search(config)
    assert [type(problem) for problem in found.problems] == [NotEnoughRoom]
    assert "1 fit.\n    Set workers to 1." in str(found.problems[0])


def test_a_model_spread_over_all_devices_is_alone(config: EvolveConfig, tmp_path: Path) -> None:
    spread = config.model_copy(update={"device": "auto-map", "workers": 2})
    with pytest.raises(ConfigError, match=r"device: auto-map spreads one model .* workers: 2"):
        evolve(spread, out=tmp_path / "run")


def test_each_worker_has_its_own_gpu(config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.xpu.device_count", lambda: 3)
    config = config.model_copy(update={"device": "auto"})
    gpus = {"auto": 2, "cuda": 2, "xpu": 3, "cuda:1": 1, "mps": 1}
    for device, fit in {**gpus, "cpu": 64, "cpu:bfloat16": 64}.items():
        several = config.model_copy(update={"device": device})
        run_workers.check_device(several.with_workers(fit))
        if device in gpus:
            with pytest.raises(ConfigError) as refused:
                run_workers.check_device(several.with_workers(fit + 1))
            assert f"workers: {fit + 1} models need a GPU each, and device: {device} gives them {fit} on" in str(
                refused.value
            )
            assert f"Set workers to {fit}" in str(refused.value)
            assert ("device to cuda for all its GPUs" in str(refused.value)) == (device == "cuda:1")
    # On Ray, the share of a GPU is a setting.
    run_workers.check_device(config.model_copy(update={"ray": RaySection(workers=8, gpus_per_worker=0.25)}))
    needed = "workers: 3 models need a GPU each, and device: auto gives them 2"
    checked = preflight_search(config.with_workers(3).resolved(relative_to=None))
    assert [str(problem).partition(" on ")[0] for problem in checked.problems] == [needed]
    with pytest.raises(ConfigError, match=needed):
        evolve(config.with_workers(3), out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()


def test_workers_have_gpus_in_turn_and_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_workers, "default_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    settings = run_workers.worker_settings(2, device="auto")
    assert [each.device for each in settings] == ["cuda:0", "cuda:1"]
    assert {(each.threads, each.n_sharing) for each in run_workers.worker_settings(3, device="cpu")} == {(2, 3)}
    assert [each.device for each in run_workers.worker_settings(1, device="cuda:1")] == ["cuda:1"]
    assert [each.device for each in run_workers.worker_settings(2, device="cpu")] == ["cpu", "cpu"]
    # Where OMP_NUM_THREADS is set, it is what `default_threads` returns, and no share is taken of it.
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert {each.threads for each in run_workers.worker_settings(3, device="cpu")} == {8}


def test_a_worker_of_the_first_hour_that_is_lost_stops_the_run_before_it_begins(
    config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An interpreter that is none.
    monkeypatch.setattr(local_workers.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"worker 1 of 2 ended while it opened the models \(exit code 1\)"):
        evolve(config.with_workers(2), out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()
