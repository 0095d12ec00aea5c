"""Texts from anyone through the commands: numbers that cost, names that no file can have, files that are not files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, write_config
from tests.cli.test_bad_input import refused

BILLION = 10**9


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space": {"kind": "interpolated", "knots": BILLION}}, ("space.knots", "less than or equal to 2000")),
        ({"space": {"kind": "grouped", "group": BILLION}}, ("space.group", "less than or equal to 2000")),
        ({"optimizer": {"kind": "cma", "population": BILLION}}, ("optimizer.population", "equal to 100000")),
        ({"budget": {"candidates": 10 * BILLION}}, ("budget.candidates", "less than or equal to 1000000000")),
        ({"workers": BILLION}, ("workers", "less than or equal to 1000")),
        ({"ray": {"workers": BILLION}}, ("ray.workers", "less than or equal to 100000")),
        ({"time_limit_s": 1e300}, ("time_limit_s", "less than or equal to 10000000")),
        ({"tasks": [{"name": "x" * 5000}]}, ("tasks[0].name", "is too long")),
        ({"tasks": [{"name": "a\0b"}]}, ("tasks[0].name", "NUL")),
        ({"tasks": [{"name": "word_problems_ja", "data": "x" * 5000}]}, ("tasks[0].data", "is too long")),
        ({"start": {"run": "x" * 5000}}, ("start", "is too long")),
        ({"merge": {"base": "x" * 5000, "sources": {"ja": "zoo:ja"}, "method": "ties"}}, ("merge.base", "too long")),
        ({"merge": {"base": "~nobody", "sources": {"ja": "zoo:ja"}, "method": "ties"}}, ("merge.base", "~nobody")),
        ({"merge": {"base": "a\0b", "sources": {"ja": "zoo:ja"}, "method": "ties"}}, ("merge.base", "NUL")),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_a_config_that_no_search_can_have_is_refused_with_its_line(
    changes: dict[str, Any], parts: tuple[str, ...], evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, **changes)
    outcome = evovlm("check", config)
    refused(outcome, f"{config}:", *parts)
    assert len(outcome.err) < 2000


def test_a_path_search_of_a_billion_repetitions_is_refused(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    merge = {"kind": "layer_path", "host": "zoo:ja", "sources": {"ja": "zoo:ja"}, "scale_target": "pending"}
    space = {"kind": "path", "repetitions": BILLION}
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, merge=merge, space=space)
    refused(evovlm("check", config), "space.repetitions", "less than or equal to 100")


def test_a_task_of_a_million_beams_is_refused(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    task = tmp_path / "own.yaml"
    task.write_text(
        "{name: own, splits: {search: rows.jsonl}, metric: accuracy, decoding: {beams: 1000000, max_new_tokens: 1}}"
    )
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?", "answer": 2}\n')
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, tasks=[{"name": str(task)}])
    refused(evovlm("check", config), "decoding.beams", "less than or equal to 1000")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody/x", "zoo:" + "x" * 5000, "a/" + "x" * 5000, "./" + "x" * 5000])
@pytest.mark.parametrize("command", ["show", "check", "merge", "ask", "score", "report", "grade", "convert", "evolve"])
def test_a_name_that_no_file_has_is_refused_by_every_command(
    command: str, name: str, evovlm: Command, tmp_path: Path
) -> None:
    further = {
        "merge": ["--out", tmp_path / "out"],
        "convert": ["--out", tmp_path / "out"],
        "evolve": ["--out", tmp_path / "out"],
        "ask": ["hi"],
        "score": ["--task", "word_problems_ja"],
        "grade": ["--metric", "accuracy"],
    }
    outcome = evovlm(command, name, *further.get(command, []))
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_files_are_refused_at_once(evovlm: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        refused(evovlm("check", path), str(path), "a pipe or a device")
        refused(evovlm("merge", path, "--out", tmp_path / "out"), str(path))
        refused(evovlm("evolve", path, "--out", tmp_path / "out"), str(path))


@pytest.mark.parametrize("text", ["format: !!bool maybe", "format: !!int abc", "format: !!timestamp foo"])
def test_a_tag_that_its_value_does_not_suit_is_refused(text: str, evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for command in ("check", "show"):
        refused(evovlm(command, path), f"{path}:1:", "leave")


def test_a_header_that_does_not_suit_its_config_is_refused(evovlm: Command, finished: Path) -> None:
    journal = finished / "journal.jsonl"
    lines = journal.read_text().splitlines()
    header = json.loads(lines[0])
    for blocks, words in (({"math": 2}, "the sources are"), ({"math": 2, "ja": 3}, "with equal numbers")):
        journal.write_text("\n".join([json.dumps({**header, "blocks": blocks}), *lines[1:]]) + "\n")
        refused(evovlm("show", finished), f"{journal}:1: blocks is", words)
    row = json.loads(lines[1])
    row["genome"] = row["genome"][1:]
    journal.write_text("\n".join([lines[0], json.dumps(row)]) + "\n")
    refused(evovlm("show", finished), f"{journal}:2: candidate 0: its genome has 3 numbers, and this search's have 4")
    journal.write_text("\n".join([*lines, '{"kind": "retry", "generation": 1}']) + "\n")
    refused(evovlm("show", finished), f"{journal}:{len(lines) + 1}: takes back generation 1")
