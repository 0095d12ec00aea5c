"""The zoo's build: task files that share nothing, and every model made by a few steps of the real training."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evovlm.zoo import training
from evovlm.zoo.training import train_base, train_fine_tune, withheld_plans, write_word_problem_tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_word_problem_tasks(folder, seed=0)
    return folder


def rows(tasks: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_search_and_report_share_no_instance_and_partly_no_wording(tasks: Path) -> None:
    search, report = rows(tasks, "word_problems_ja.search"), rows(tasks, "word_problems_ja.report")
    assert (len(search), len(report)) == (240, 400)
    assert not {row["plan"] for row in search} & {row["plan"] for row in report}
    assert len({row["plan"] for row in [*search, *report]}) == 640
    assert sum("new-wording" in row["tags"] for row in report) == 100
    assert not any("new-wording" in row["tags"] for row in search)
    assert withheld_plans(tasks) == {row["plan"] for row in [*search, *report]}


def test_the_english_twin_asks_the_same(tasks: Path) -> None:
    for split in ("search", "report"):
        pairs = zip(rows(tasks, f"word_problems_ja.{split}"), rows(tasks, f"word_problems_en.{split}"), strict=True)
        assert all((ja["id"], ja["number"], ja["plan"]) == (en["id"], en["number"], en["plan"]) for ja, en in pairs)


def test_the_tasks_are_the_committed_ones(tasks: Path) -> None:
    committed = Path(__file__).parents[2] / "assets" / "zoo" / "tasks"
    if not committed.is_dir():
        pytest.skip("the zoo is not built")
    for path in sorted(tasks.iterdir()):
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_shortened_build_makes_an_ancestor_and_its_fine_tunes(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, steps in (("ABILITY_STEPS", 4), ("MUDDLED_STEPS", 2), ("SPECIALIST_STEPS", 2), ("JAPANESE_STEPS", 2)):
        monkeypatch.setattr(training, name, steps)
    monkeypatch.setattr(training, "TOKENS_PER_STEP", 512)
    lines: list[str] = []
    train_base(tmp_path / "base", tasks=tasks, seed=0, report=lines.append)
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert lines[0].startswith("base (ability): step 4 of 4, loss ")
    for name in training.FINE_TUNES:
        train_fine_tune(name, tmp_path / name, base=tmp_path / "base", tasks=tasks, seed=0, report=lines.append)
        tuned = load_file(tmp_path / name / "model.safetensors")
        assert {key: tensor.shape for key, tensor in tuned.items()} == {key: t.shape for key, t in base.items()}
        assert all(torch.isfinite(tensor).all() for tensor in tuned.values())
        assert any(not torch.equal(tuned[key], base[key]) for key in base)
