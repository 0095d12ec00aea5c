"""`evovlm score` on pico models."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from evovlm.cli.app import app
from evovlm.errors import (
    BrokenCheckpoint,
    ConfigError,
    JudgeStopped,
    ModelNotFound,
    OutputExists,
    PickledWeights,
    TaskError,
)
from evovlm.tasks.emoji_pictures import NOTO_FONT_VARIABLE
from tests.cli.conftest import Command
from tests.judge_server import JudgeServer, says
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LLM, one like it, and a VLM."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base")
    pico_llm(folder / "math", like=base, seed=1)
    pico_vlm(folder / "vlm", like=base, seed=2)
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three word problems."""
    path = tmp_path_factory.mktemp("tasks") / "problems.jsonl"
    rows = [
        {"id": f"p{n}", "question": f"{n}と2で?", "number": n + 2, "tags": ["even" if n % 2 == 0 else "odd"]}
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    """Run `evovlm score` with these arguments."""
    return CliRunner().invoke(app, ["score", *map(str, arguments), "--device", "cpu"])


def run_words(model: Path, problems: Path, *more: str | Path) -> Result:
    """Score the word problems."""
    return run(model, "--task", "word_problems_ja", "--data", f"word_problems_ja={problems}", *more)


def test_json_holds_score_interval_and_tags(models: Path, problems: Path) -> None:
    result = run_words(models / "base", problems, "--json")
    assert result.exit_code == 0, result.output
    scored = json.loads(result.stdout)["word_problems_ja"]
    assert "bootstrap_mid" not in scored
    assert scored["n"] == 3
    assert 0 <= scored["interval"][0] <= scored["score"] <= scored["interval"][1] <= 1
    assert set(scored["tags"]) == {"even", "odd"}
    assert scored["tags"]["even"]["n"] == 2
    assert {"ungated", "japanese", "tokens", "seconds"} <= set(scored)


def test_the_table_has_a_row_per_task_and_tag(models: Path, problems: Path) -> None:
    result = run_words(models / "base", problems)
    assert result.exit_code == 0, result.output
    for part in ("word_problems_ja", "even", "odd", "95 %", "Japanese"):
        assert part in result.stdout


def answers(saved: Path) -> list[dict[str, object]]:
    """Return the saved rows of the first model and task."""
    (file,) = saved.glob("1-*.1-*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_save_keeps_every_answer_once(models: Path, problems: Path, tmp_path: Path) -> None:
    saved = tmp_path / "answers"
    assert run_words(models / "base", problems, "--limit", "2", "--save", saved).exit_code == 0
    rows = answers(saved)
    assert [row["id"] for row in rows] == ["p0", "p1"]
    assert {"question", "references", "text", "extracted", "score", "gate", "unscored"} <= set(rows[0])
    refused = run_words(models / "base", problems, "--limit", "2", "--save", saved)
    assert isinstance(refused.exception, OutputExists)
    again = run_words(models / "base", problems, "--limit", "2", "--save", saved, "--resume", "--json")
    assert json.loads(again.stdout)["word_problems_ja"]["n"] == 2
    assert isinstance(run_words(models / "base", problems, "--resume").exception, ConfigError)


def test_a_recipe_is_merged_in_memory(models: Path, problems: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "format: 1\nkind: parameter_merge\n"
        f"base: {models / 'base'}\nsources: {{math: {models / 'math'}}}\n"
        "method: task_arithmetic\nparameters: {math: {weight: 1.0}}\n",
        encoding="utf-8",
    )
    result = run(
        *(models / "math", recipe, "--task", "word_problems_ja", "--data", f"word_problems_ja={problems}"),
        *("--save", tmp_path / "saved", "--json"),
    )
    assert result.exit_code == 0, result.output
    math, merged = sorted((tmp_path / "saved").glob("*.jsonl"))
    assert merged.read_bytes() == math.read_bytes()
    printed = json.loads(result.stdout)
    assert set(printed["models"]) == {str(models / "math"), str(recipe)}
    (comparison,) = printed["comparisons"]
    assert (comparison["difference"], comparison["ties"], comparison["p_value"]) == (0.0, 3, 1.0)


def test_ctrl_c_prints_the_command_that_resumes(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = ("score", models / "base", "--task", "word_problems_ja", "--data", f"word_problems_ja={problems}")
    with monkeypatch.context() as pressed:
        pressed.setattr("evovlm.models.decoding.generation.generate", interrupt)
        lost = evovlm(*arguments, "--device", "cpu")
        stopped = evovlm(*arguments, "--device", "cpu", "--save", tmp_path / "my answers")
    assert (lost.code, stopped.code, stopped.out) == (130, 130, "")
    assert "--save" in lost.err
    advice = stopped.err.strip().splitlines()[-1]
    resumed = evovlm(*shlex.split(advice)[1:], "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["word_problems_ja"]["n"] == 3


def test_two_models_are_compared_and_several_tasks_named_at_once(models: Path, problems: Path) -> None:
    names = ("word_problems_ja", "word_problems_en")
    places = [part for name in names for part in ("--data", f"{name}={problems}")]
    result = run(models / "base", models / "math", "--task", ",".join(names), *places)
    assert result.exit_code == 0, result.output
    for part in (*names, "accuracy, robust extractor, script gate", "accuracy, robust extractor, no gate"):
        assert part in result.stdout
    assert result.stdout.count("p = ") == 2
    assert result.stdout.count("equal") == 2
    twice = run(models / "base", "--task", "word_problems_ja,word_problems_ja")
    assert isinstance(twice.exception, ConfigError)


def test_what_has_no_number_is_counted_apart_with_its_reason(models: Path, problems: Path, tmp_path: Path) -> None:
    silent = pico_llm(tmp_path / "silent")
    tensors = load_file(silent / "model.safetensors")
    tensors["lm_head.weight"].zero_()
    save_file(tensors, silent / "model.safetensors", metadata={"format": "pt"})
    told = run_words(silent, problems)
    counted = json.loads(run_words(silent, problems, "--json").stdout)["word_problems_ja"]
    assert (counted["score"], counted["unscored"], counted["reasons"]) == (0.0, 3, {"no number found": 3})
    assert "3 of 3 unscored: no number found" in told.stdout
    assert "unscored" not in run_words(models / "base", problems).stdout


def test_a_task_of_the_harness_is_scored_beside_ours(
    models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason='needs the extra: pip install "evovlm[lm-eval]"')
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = tmp_path / "chosen.yaml"
    task.write_text(
        f"task: chosen\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {problems}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: ['1', '2']\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    name = f"lm_eval:{task}#acc,none"
    arguments = ("--task", name, "--allow-code", "--save", tmp_path / "saved")
    told = run_words(models / "base", problems, *arguments)
    assert told.exit_code == 0, told.output
    assert "acc, filter none" in told.stdout
    again = json.loads(run_words(models / "base", problems, *arguments, "--resume", "--json").stdout)
    assert (again[name]["n"], again["word_problems_ja"]["n"]) == (3, 3)


def test_a_decoding_is_chosen_by_name(models: Path, problems: Path) -> None:
    refused = run_words(models / "base", problems, "--decoding", "fast").exception
    assert isinstance(refused, TaskError)
    assert "no decoding 'fast'" in str(refused)


def test_what_the_user_can_fix_is_reported(models: Path, problems: Path, tmp_path: Path) -> None:
    bare = pico_llm(tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert isinstance(run_words(bare, problems).exception, BrokenCheckpoint)
    pickled = pico_llm(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert isinstance(run_words(pickled, problems).exception, PickledWeights)
    assert isinstance(run_words(tmp_path / "nowhere", problems).exception, ModelNotFound)
    unknown = run(models / "base", "--task", "word_problem_ja").exception
    assert isinstance(unknown, TaskError)
    assert "did you mean 'word_problems_ja'" in str(unknown)


def test_a_picture_task_asked_of_a_text_model_is_reported(models: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures.jsonl"
    placed = {"emoji": "🍑", "x": 32, "y": 32, "size": 40, "rotation": 0}
    picture = {"artist": "openmoji", "background": ["#ffffff"], "objects": [placed]}
    row = {"id": "a", "question": "何の絵ですか?", "answer": "桃", "picture": picture, "tags": ["culture"]}
    pictures.write_text(json.dumps(row), encoding="utf-8")
    arguments = ("--task", "emoji_ja", "--data", f"emoji_ja={pictures}", "--json")
    refused = run(models / "base", *arguments).exception
    assert isinstance(refused, TaskError)
    assert "takes no pictures" in str(refused)
    seen = run(models / "vlm", *arguments)
    assert seen.exit_code == 0, seen.output
    scored = json.loads(seen.stdout)["emoji_ja"]
    assert scored["tags"]["culture"]["n"] == 1
    # Of one sample every bootstrap is the sample.
    assert scored["bootstrap_mid"] == scored["tags"]["culture"]["bootstrap_mid"] == scored["score"]


def test_samples_that_this_machine_cannot_draw_are_left_out_and_counted(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTO_FONT_VARIABLE, str(tmp_path / "missing.ttf"))
    placed = {"emoji": "🍑", "x": 32, "y": 32, "size": 40, "rotation": 0}
    rows = [
        {
            "id": f"{artist}-{n}",
            "question": "何の絵ですか?",
            "answer": "桃",
            "picture": {"artist": artist, "background": ["#ffffff"], "objects": [placed]},
            "tags": [artist],
        }
        for artist, count in (("openmoji", 2), ("noto", 1))
        for n in range(count)
    ]
    pictures = tmp_path / "pictures.jsonl"
    pictures.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("--task", "emoji_ja", "--data", f"emoji_ja={pictures}", "--save", tmp_path / "saved")
    told = run(models / "vlm", *arguments)
    assert told.exit_code == 0, told.output
    assert (
        "emoji_ja, report split: samples left out, because this machine cannot draw their pictures: 1. The"
        in told.stdout
    )
    # The count is kept with the answers.
    again = run(models / "vlm", *arguments, "--resume", "--json")
    scored = json.loads(again.stdout)["emoji_ja"]
    assert (scored["n"], scored["unscored"], list(scored["tags"])) == (2, 0, ["openmoji"])
    assert list(scored["absent"].values()) == [1]


def test_data_for_a_task_that_is_not_scored_is_refused(models: Path, problems: Path) -> None:
    result = run(models / "base", "--task", "word_problems_ja", "--data", f"mgsm_ja={problems}")
    assert isinstance(result.exception, TaskError)


def test_tasks_lists_every_task() -> None:
    result = CliRunner().invoke(app, ["tasks", "--json"])
    assert result.exit_code == 0
    assert {"word_problems_ja", "emoji_ja", "gsm8k_ja", "mgsm_ja"} <= {row["name"] for row in json.loads(result.stdout)}
    assert "word_problems_ja" in CliRunner().invoke(app, ["tasks"]).stdout


def test_a_task_is_asked_by_another_prompt(models: Path, problems: Path, tmp_path: Path) -> None:
    own = run_words(models / "base", problems, "--save", tmp_path / "own")
    other = run_words(models / "base", problems, "--save", tmp_path / "other", "--prompt", "Q: {input}\nA:")
    assert own.exit_code == other.exit_code == 0, other.output
    texts = [
        [
            json.loads(line)["text"]
            for path in sorted((tmp_path / name).glob("*.jsonl"))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for name in ("own", "other")
    ]
    assert len(texts[0]) == len(texts[1]) == 3
    assert texts[0] != texts[1]
    unknown = run_words(models / "base", problems, "--prompt", "alpaka").exception
    assert isinstance(unknown, TaskError)
    assert "The prompts are: chat" in str(unknown)


def test_a_prompt_without_a_place_is_refused_for_pictures_before_any_model(tmp_path: Path) -> None:
    refused = run(tmp_path / "nowhere", "--task", "emoji_ja", "--prompt", "abel").exception
    assert isinstance(refused, TaskError)
    assert "has no place for a picture" in str(refused)


def test_one_table_is_printed_and_the_files_of_others_are_written(models: Path, problems: Path, tmp_path: Path) -> None:
    result = run_words(
        models / "base", problems, models / "math", "--table", "md", "--write", f"lm-eval={tmp_path / 'lm'}"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "| model | word_problems_ja |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == [f"| {models / 'base'}", f"| {models / 'math'}"]
    assert len(list((tmp_path / "lm").glob("*/results_*.json"))) == 2


def test_a_form_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    models: Path, problems: Path, tmp_path: Path
) -> None:
    for options, kind, words in (
        (("--write", f"lm-eval={tmp_path}"), OutputExists, "exists already"),
        (("--write", "lm-eval"), ConfigError, "write FORM=DIR"),
        (("--table", "html"), ConfigError, "--table html: unknown form"),
        (("--table", "md", "--json"), ConfigError, "Leave one of them out"),
        (("--gate", "fast"), TaskError, "Unknown gate 'fast'"),
    ):
        result = run_words(models / "base", problems, *options)
        assert isinstance(result.exception, kind), result.output
        assert words in str(result.exception)


def test_a_scoring_is_chosen_on_the_command_line(models: Path, problems: Path) -> None:
    result = run_words(models / "base", problems, "--extractor", "paper", "--gate", "none", "--json")
    assert json.loads(result.stdout)["word_problems_ja"]["measured"] == "accuracy, paper extractor, no gate"


def test_a_judge_scores_once_and_again_for_free(
    models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-neverToBeSeen0123456789")
    with JudgeServer(lambda _: says("4")) as server:
        asked = ("--metric", "judge", "--judge", "gpt-x", "--judge-url", server.url)
        stopped = run_words(models / "base", problems, *asked, "--judge-calls", "1", "--save", tmp_path / "out")
        assert isinstance(stopped.exception, JudgeStopped), stopped.output
        resumed = run_words(models / "base", problems, *asked, "--save", tmp_path / "out", "--resume", "--json")
        assert resumed.exit_code == 0, resumed.output
        scored = json.loads(resumed.stdout)["word_problems_ja"]
        assert (scored["measured"], scored["score"]) == ("judge, gpt-x, script gate", pytest.approx(scored["ungated"]))
        assert len(server.requests) == 3
        graded = CliRunner().invoke(
            app, ["grade", *map(str, (tmp_path / "out").glob("1-*.jsonl")), "--json", *asked, "--judge-calls", "1"]
        )
        assert graded.exit_code == 0, graded.output
        assert len(server.requests) == 3
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"neverToBeSeen" not in file.read_bytes()


def test_a_task_that_needs_a_judge_says_so_before_its_data_is_fetched(models: Path) -> None:
    for options, kind, words in (
        ((), TaskError, "--judge MODEL"),
        (("--judge-calls", "3"), ConfigError, "Name its model with --judge"),
        (("--judge", "m", "--judge-url", "localhost:80"), ConfigError, "is not an address"),
    ):
        result = run(models / "vlm", "--task", "jammeval_heron", *options)
        assert isinstance(result.exception, kind), result.output
        assert words in str(result.exception)
