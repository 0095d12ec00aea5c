"""TensorBoard and Weights & Biases: what was logged is read back from their files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from evovlm.errors import ConfigError, OutputError
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation
from evovlm.runs.config import execution
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import evolve
from tests.runs.conftest import TASK, WriteConfig, journal_rows
from tests.runs.test_goals import StopsAt

SECRET = "5ec0" * 10


def by_step(run: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    found: dict[str, dict[int, float]] = {}
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        found[name] = {each.step: each.value for each in scalars}
        assert len(found[name]) == len(scalars), "a step is there twice"
    return found


def records_in(file: Path) -> Iterator[bytes]:
    """Yield the records of an offline run: LevelDB's log format (blocks of 32 KiB) behind a header of 7 bytes."""
    content, whole = file.read_bytes(), b""
    place = 7
    while place + 7 <= len(content):
        if place % 32768 > 32768 - 7:
            place += 32768 - place % 32768
            continue
        _checksum, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def expected(journal: Journal) -> dict[str, list[float]]:
    """Return some of the figures of every generation, worked out from the journal."""
    found: dict[str, list[float]] = {"fitness/mean": [], "fitness/best": [], "cost/tokens": []}
    tokens = 0
    for generation in range(3):
        outcomes = [each.outcome for each in journal.candidates if each.generation == generation]
        known = [each for each in outcomes if isinstance(each, Evaluation)]
        tokens += sum(each.tokens for each in known)
        found["fitness/mean"].append(sum(each.fitness for each in known) / len(known))
        found["fitness/best"].append(max(each.fitness for each in known))
        found["cost/tokens"].append(tokens)
    return found


def test_tensorboard_has_every_generation_once_after_a_stop_too(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    logged = config.logged("tensorboard")
    with pytest.raises(KeyboardInterrupt):
        evolve(logged, out=run, evaluator=evaluator, observer=StopsAt(9))
    evolve(logged, out=run, resume=True, evaluator=evaluator)
    drawn = by_step(run)
    for name, values in expected(read_journal(run / "journal.jsonl")).items():
        assert list(drawn[name]) == [0, 1, 2]
        assert list(drawn[name].values()) == pytest.approx(values)
    best = [max(each.fitness or 0.0 for each in Run.open(run).candidates[: 4 * (number + 1)]) for number in range(3)]
    assert list(drawn["fitness/best_so_far"].values()) == pytest.approx(best)
    assert {f"best/{TASK}", f"mean/{TASK}", "search/spread", "cost/seconds"} <= set(drawn)
    assert 0 < drawn["search/spread"][0] < 0.5


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_nothing_is_logged_through_a_link(
    name: str, config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    logged = config.logged(name)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=run, evaluator=evaluator, observer=StopsAt(2))
    (run / name).symlink_to(elsewhere)
    with pytest.raises(OutputError, match=rf"{name} is a link"):
        evolve(logged, out=run, resume=True, evaluator=evaluator)
    assert list(elsewhere.iterdir()) == []


def test_wandb_offline_keeps_the_figures_in_the_run_s_folder_and_no_key(
    write_config: WriteConfig, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    config = load_config(write_config({"log": {"wandb": {"project": "merges", "mode": "offline"}}}))
    evolve(config, out=tmp_path / "run", evaluator=evaluator)
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    steps: list[dict[str, float]] = []
    project = None
    for content in records_in(file):
        record = Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            project = record.run.project
        if record.HasField("history"):
            items = record.history.item
            steps.append({(each.key or "/".join(each.nested_key)): json.loads(each.value_json) for each in items})
    assert project == "merges"
    for name, values in expected(read_journal(tmp_path / "run/journal.jsonl")).items():
        assert [step[name] for step in steps] == pytest.approx(values)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 6
    assert not any(SECRET.encode() in path.read_bytes() for path in written)


def test_logging_is_not_part_of_a_search(config: EvolveConfig, evaluator: Evaluator, tmp_path: Path) -> None:
    evolve(config, out=tmp_path / "plain", evaluator=evaluator)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "run", evaluator=evaluator, observer=StopsAt(6))
    evolve(config.logged("tensorboard"), out=tmp_path / "run", resume=True, evaluator=evaluator)
    assert journal_rows(tmp_path / "run") == journal_rows(tmp_path / "plain")
    assert "log" not in (tmp_path / "run/config.yaml").read_text(encoding="utf-8")


def test_what_is_missing_is_named_with_its_extra_before_anything_is_opened(
    config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "find_spec", lambda _name: None)
    for place in ("tensorboard", "wandb"):
        with pytest.raises(ConfigError, match=rf"log.{place}: .*not installed(?s:.*)pip install 'evovlm\[{place}\]'"):
            evolve(config.logged(place), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        config.logged("tensorbord")


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
def test_settings_of_the_current_folder_do_not_say_where_the_key_goes(
    write_config: WriteConfig, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text("[default]\nbase_url = https://stranger.example\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load_config(write_config({"log": {"wandb": {"mode": "offline"}}}))
    with pytest.raises(ConfigError, match=f"{folder}/settings: this settings file of Weights & Biases"):
        evolve(config, out=tmp_path / "run", evaluator=evaluator)
