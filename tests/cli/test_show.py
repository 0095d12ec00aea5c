"""`evovlm show` on a run of pico models."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TASK, Command, write_config


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_it_shows_candidates_numbers_and_the_course_of_the_search(evovlm: Command, finished: Path) -> None:
    shown = evovlm("show", finished)
    assert shown.code == 0, shown.err
    assert f"{finished} (finished)" in shown.out
    assert "8 candidates in 2 generations" in shown.out
    for word in ("fitness", TASK, "math", "ja", "weight", "density", "the best candidate", "best so far"):
        assert word in shown.out
    result = json.loads((finished / "result.json").read_text())
    assert result["recipe_id"] in shown.out
    assert all(len(line) <= 80 for line in shown.out.splitlines() if str(finished) not in line), shown.out


def test_json_holds_the_same_and_top_limits_the_list(evovlm: Command, finished: Path) -> None:
    summary = json.loads(evovlm("show", finished, "--top", "3", "--json").out)
    result = json.loads((finished / "result.json").read_text())
    assert len(summary["top"]) == 3
    assert summary["top"][0]["recipe_id"] == result["recipe_id"]
    assert summary["candidates"] == result["candidates"] == 8
    assert len(summary["best_by_generation"]) == len(summary["mean_by_generation"]) == 2
    assert {(each["source"], each["parameter"]) for each in summary["numbers"]} == {
        (source, parameter) for source in ("math", "ja") for parameter in ("weight", "density")
    }


def test_an_unfinished_run_is_shown_and_not_changed(evovlm: Command, finished: Path) -> None:
    journal = finished / "journal.jsonl"
    whole = journal.read_bytes()
    # Cut within the line of the last candidate.
    torn = whole[: whole.rindex(b'"kind": "candidate"') + 100]
    journal.write_bytes(torn)
    summary = json.loads(evovlm("show", finished, "--json").out)
    assert summary["candidates"] == torn.count(b"\n") - 1
    assert summary["finished"] is False
    assert journal.read_bytes() == torn


def test_failures_are_listed_with_their_reasons(evovlm: Command, finished: Path) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines()
    failed = json.loads(lines[3])
    for key in ("fitness", "tokens", "scores"):
        del failed[key]
    failed |= {"status": "failed", "failure": {"kind": "not_finite", "reason": "[weights] are not finite"}}
    failed |= {"seconds": failed.pop("seconds")}
    lines[3] = json.dumps(failed)
    (finished / "journal.jsonl").write_text("\n".join(lines) + "\n")
    shown = evovlm("show", finished)
    assert "1 failed" in shown.out
    assert "candidate 2 failed: [weights] are not finite" in shown.out


def test_a_layer_wise_run_of_a_method_without_density_has_one_row_a_unit(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    sources = {"math": str(models / "math"), "ja": str(models / "ja")}
    merge = {"base": str(models / "base"), "sources": sources, "method": "task_arithmetic"}
    config = write_config(
        tmp_path / "layers.yaml",
        models=models,
        problems=problems,
        merge=merge,
        space={"kind": "layer", "weight": [0, 2]},
        optimizer={"kind": "random", "population": 4},
        budget={"candidates": 5},
        winner="mean",
    )
    assert evovlm("evolve", config, "--out", tmp_path / "run").code == 0
    shown = evovlm("show", tmp_path / "run")
    assert "4 candidates in 1 generation," in shown.out
    assert "the distribution's mean" in shown.out
    assert "density" not in shown.out
    for unit in ("embedding", "block0", "block1", "head"):
        assert unit in shown.out
