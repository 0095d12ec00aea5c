"""Scores as a table in Markdown, CSV and LaTeX, and in the files of other projects, read back by those projects."""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from huggingface_hub import parse_eval_result_entries

from evovlm.errors import ConfigError, OutputExists, TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.predictions import read_predictions
from evovlm.recipes.yaml_text import read_yaml
from evovlm.runs.scores.forms import FORMS, parse_targets, write_form
from evovlm.runs.scores.score_models import ScoredModel, Scores
from evovlm.runs.scores.score_table import TABLES, score_table
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.sample import Sample, Split

HOSTILE = "mo|del_50%\n& \\x{1}"


def scored(name: str, values: Sequence[float], *, metric: str = "accuracy", ungated: float | None = None) -> ScoredTask:
    answers = tuple(
        Answer(
            sample=Sample(id=f"q{number}", question="何個?", references=("7",)),
            text=f"{number}\nつ",
            score=value,
            ungated=value if ungated is None else ungated,
            japanese=True,
            extracted=str(number),
        )
        for number, value in enumerate(values)
    )
    return ScoredTask(name=name, metric=metric, measured=f"{metric}, no gate", gate=None, answers=answers)


def scores_of(*models: str) -> Scores:
    tasks = (
        scored("mgsm_ja", (1.0, 0.0, 1.0, 1.0)),
        scored("ja_vlm_bench", (0.25, 0.5), metric="rouge_l_ja", ungated=0.75),
    )
    return Scores(models=tuple(ScoredModel(model=model, tasks=tasks) for model in models), pairs=())


def test_a_markdown_table_has_a_row_per_model_and_a_column_per_task() -> None:
    table = score_table(scores_of("a", HOSTILE), form="md", split=Split.REPORT)
    rows = table.split("\n\n")[0].splitlines()
    assert rows[:3] == [
        "| model | mgsm_ja | ja_vlm_bench |",
        "|---|---:|---:|",
        "| a | 75.0 (30.1 - 95.4) | 37.5 (25.0 - 50.0) |",
    ]
    assert rows[3].startswith(r"| mo\|del_50% & \x{1} | ")
    assert "mgsm_ja: accuracy, no gate; 4 samples of the report split" in table


def test_a_csv_table_reads_back_with_intervals_and_counts() -> None:
    (row,) = csv.DictReader(io.StringIO(score_table(scores_of('x,"y"'), form="csv", split=Split.REPORT)))
    assert row["model"] == 'x,"y"'
    assert [float(row[f"mgsm_ja{part}"]) for part in ("", "_n", "_unscored")] == [75.0, 4, 0]
    assert 30 < float(row["mgsm_ja_low"]) < 31
    assert 95 < float(row["mgsm_ja_high"]) < 96


def test_a_latex_table_escapes_every_name() -> None:
    table = score_table(scores_of(HOSTILE), form="latex", split=Split.REPORT)
    lines = table.splitlines()
    assert r"mo|del\_50\% \& \textbackslash{}x\{1\} & 75.0 (30.1 - 95.4) & 37.5 (25.0 - 50.0) \\" in lines
    assert all(line.startswith("%") for line in lines if "no gate" in line)
    assert lines[-1] == r"\end{tabular}"


def test_an_unknown_form_names_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"--table mdd: .*did you mean 'md'"):
        score_table(scores_of("a"), form="mdd", split=Split.REPORT)
    with pytest.raises(ConfigError, match=r"--write lm_eval=x: write FORM=DIR.*did you mean 'lm-eval'"):
        parse_targets(["lm_eval=x"])
    assert set(TABLES) == {"md", "csv", "latex"}


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def test_the_hub_reads_the_scores_in_a_model_s_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (file,) = write_form(scores_of("models/m"), form="hub", folder=folder, split=Split.REPORT)
    assert file == folder / ".eval_results" / "evovlm.yaml"
    entries = parse_eval_result_entries(read_yaml(file))  # type: ignore[arg-type]
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] == [
        ("juletxara/mgsm", "mgsm_ja", 75.0),
        ("SakanaAI/JA-VLM-Bench-In-the-Wild", "ja_vlm_bench", 37.5),
    ]
    assert "95 % interval 30.1 to 95.4" in str(entries[0].notes)
    with pytest.raises(OutputExists, match=r"evovlm\.yaml exists already"):
        parse_targets([f"hub={folder}"])


def test_the_hub_s_form_is_one_model_s_scores_on_sets_of_the_hub(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match="belongs to one model, and 2 were scored"):
        write_form(scores_of("a", "b"), form="hub", folder=folder, split=Split.REPORT)
    own = Scores(models=(ScoredModel(model="a", tasks=(scored("mine", (1.0,)),)),), pairs=())
    with pytest.raises(TaskError, match="mine is not a data set of the hub"):
        write_form(own, form="hub", folder=folder, split=Split.REPORT)
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        parse_targets([f"hub={tmp_path}"])
    assert not (folder / ".eval_results").exists()


def test_no_scores_are_written_through_a_link(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    (folder / ".eval_results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="is a link"):
        parse_targets([f"hub={folder}"])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_llm_jp_eval_mm_s_folder_has_their_task_metric_and_scale(tmp_path: Path) -> None:
    out = tmp_path / "result"
    write_form(scores_of("org/model", "./models/org/model"), form="llm-jp-eval-mm", folder=out, split=Split.REPORT)
    folder = out / "ja-vlm-bench-in-the-wild" / "org" / "model"
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert set(manifest) == {"schema_version", "model_id", "task_id", "metrics", "created_at", "result_dir"}
    assert (manifest["model_id"], manifest["metrics"]) == ("org/model", ["rougel"])
    (line,) = (folder / "evaluation.jsonl").read_text("utf-8").splitlines()
    # Theirs has no language gate, and goes up to 100.
    assert json.loads(line)["rougel"]["overall_score"] == 75.0
    rows = [json.loads(line) for line in (folder / "prediction.jsonl").read_text("utf-8").splitlines()]
    assert rows[1] == {"question_id": "q1", "text": "1\nつ", "answer": "7", "input_text": "何個?", "rougel": 75.0}
    assert (out / "mgsm_ja" / "model" / "evaluation.jsonl").is_file()


def test_lm_eval_s_files_hold_its_keys_and_its_standard_error(tmp_path: Path) -> None:
    out = tmp_path / "lm"
    write_form(scores_of("org/model"), form="lm-eval", folder=out, split=Split.REPORT)
    (file,) = out.glob("org__model/results_*.json")
    found = json.loads(file.read_text("utf-8"))
    assert found["results"]["mgsm_ja"] == {
        "alias": "mgsm_ja",
        "accuracy,none": 0.75,
        "accuracy_stderr,none": statistics.stdev((1, 0, 1, 1)) / 2,
    }
    assert found["n-samples"]["mgsm_ja"] == {"original": 4, "effective": 4}
    (samples,) = out.glob("org__model/samples_mgsm_ja_*.jsonl")
    read = read_predictions(samples)
    assert [(each.text, each.sample.references) for each in read][1] == ("1\nつ", ("7",))


def test_the_harness_s_own_table_shows_the_scores(tmp_path: Path) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    write_form(scores_of("org/model"), form="lm-eval", folder=tmp_path / "lm", split=Split.REPORT)
    (file,) = (tmp_path / "lm").glob("*/results_*.json")
    table = utils.make_table(json.loads(file.read_text("utf-8")))
    assert "mgsm_ja" in table
    assert "0.75" in table


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"hub"}))
def test_names_of_models_never_lead_out_of_the_folder(form: str, tmp_path: Path) -> None:
    names = ("../..", "/etc/passwd", "..", "a/../../b", "モデル", "x/.git")
    files = write_form(scores_of(*names), form=form, folder=tmp_path / "out", split=Split.REPORT)
    inside = (tmp_path / "out").resolve()
    assert all(file.resolve().is_relative_to(inside) for file in files)
    assert len(set(files)) == len(files)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]
    with pytest.raises(OutputExists):
        parse_targets([f"{form}={tmp_path / 'out'}"])
