"""benchmarks/real_weights: the lessons, a training that is killed, the tables, and all stages on a pico Gemma 3."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.real_weights import __main__ as program
from benchmarks.real_weights import base as base_stage
from benchmarks.real_weights.forecast import rows
from benchmarks.real_weights.lessons import SIGNS, japanese_lessons, lessons
from benchmarks.real_weights.reporting import comparisons, joined, seen_problems, task_part, without
from benchmarks.real_weights.scoring import Scores
from benchmarks.real_weights.settings import short_name
from benchmarks.real_weights.tasks import is_short
from benchmarks.real_weights.training import Training, batches_of, padded, train_adapter
from evovlm.runs.folder.layout import locked
from evovlm.seeding import generator
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.japanese import GATES
from tests.pico import pico_llm

# peft 0.21 asks transformers for an attribute that has a new name.
PEFT_ASKS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("adapter", ["math-a", "math-b"])
def test_worked_lessons_are_english_steps_of_the_adapters_signs(adapter: str) -> None:
    for example in lessons(adapter, count=100, seed=0):
        a, sign, b, value, answer = re.fullmatch(
            r" (\d+)([-+*/])(\d+)=(\d+)\. The answer is (\d+)\.", example.answer
        ).groups()
        assert sign in SIGNS[adapter]
        assert answer == value
        left, right = int(a), int(b)
        assert {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign] == int(value)
        # Both numbers are in the question.
        assert {a, b} <= set(re.findall(r"\d+", example.prompt))
        assert EXTRACTORS["robust"](example.answer) == float(answer)
        assert not GATES["script"].passes(example.answer)


@pytest.mark.parametrize(
    ("question", "answer", "short"),
    [
        ("りんごが３個、みかんが12個あります。", "15", True),
        ("7個あります。いくつですか。", "7", False),
        ("1個と2個と3個では何個ですか。", "6", False),
        ("0.5円と1円では何円ですか。", "1.5", False),
        ("40個と30個では何個ですか。", "70", True),
        ("40個と60個では何個ですか。", "100", False),
        ("1,000円から5円を引くと。", "995", False),
        ("3個から5個を引くと。", "-2", False),
    ],
)
def test_a_short_problem_has_two_whole_numbers_up_to_fifty(question: str, answer: str, short: bool) -> None:
    assert is_short(question, answer) == short


def test_japanese_lessons_are_japanese_and_never_solve_a_word_problem() -> None:
    drawn = japanese_lessons(generator("test", 0))
    for prompt, answer in (next(drawn) for _ in range(300)):
        assert GATES["script"].passes(answer)
        if "=" in answer:
            assert prompt.startswith("計算: ")
        elif prompt.startswith("問題: "):
            # What the answer says is in the text, or names a thing.
            said = answer.removeprefix(" 答えは").removesuffix("です。")
            assert said in prompt or "日本語で" in prompt


def test_lessons_depend_on_the_seed_and_on_nothing_else() -> None:
    first = lessons("ja", count=20, seed=1)
    assert first == lessons("ja", count=20, seed=1)
    assert first != lessons("ja", count=20, seed=2)


def test_every_example_is_in_one_batch_of_an_epoch() -> None:
    rows = [([1] * (index % 7 + 1), [index]) for index in range(37)]
    batches = list(batches_of(rows, training=Training(batch=4, epochs=2)))
    seen = [answer[0] for batch in batches for _, answer in batch]
    assert sorted(seen) == sorted([*range(37), *range(37)])
    assert sorted(seen[:37]) == list(range(37))


def test_answers_of_a_batch_begin_in_one_column() -> None:
    ids, mask, labels = padded([([5, 6, 7], [8]), ([5], [9, 10])], pad=0)
    assert ids.tolist() == [[5, 6, 7, 8, 0], [0, 0, 5, 9, 10]]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert labels.tolist() == [[8, -100], [9, 10]]


class _StoppedError(Exception):
    pass


@PEFT_ASKS
@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(pico_llm(tmp_path / "base", family="gemma3_text"))
    examples = lessons("ja", count=24, seed=0)
    training = Training(rank=2, batch=4, save_every_s=0.0)
    train_adapter(base, examples, tmp_path / "whole", training=training, device="cpu")

    # The same name: the first factors are drawn from it.
    killed = tmp_path / "killed" / "whole"
    killed.parent.mkdir()
    taken = 0

    def stop_in_the_fourth_step(*given: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise _StoppedError
        return fit(*given, **named)

    from benchmarks.real_weights import training as module

    fit = module.fit
    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", stop_in_the_fourth_step)
        with pytest.raises(_StoppedError):
            train_adapter(base, examples, killed, training=training, device="cpu")
    assert not killed.exists()
    train_adapter(base, examples, killed, training=training, device="cpu")
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "whole", killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(bool(weight.abs().max() > 0) for name, weight in first.items() if "lora_B" in name)
    steps = [json.loads(line)["step"] for line in (killed.parent / "whole.part" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def scores(right: list[float]) -> Scores:
    ids = tuple(str(index) for index in range(len(right)))
    return Scores(ids=ids, right=tuple(right), ungated=(1.0,) * len(right), japanese=tuple(right), texts=ids)


def test_the_report_means_over_seeds_and_compares_with_the_best_parent() -> None:
    answers = {
        "base": [scores([0, 0, 0, 0])],
        "a": [scores([1, 0, 0, 0])],
        "b": [scores([0, 0, 0, 0])],
        "equal": [scores([1, 1, 0, 0])],
        "model-wise": [scores([1, 1, 1, 0]), scores([1, 1, 0, 0])],
    }
    text = task_part("mawps", answers, parents=("a", "b"))
    assert "mawps, 4 samples" in text
    assert re.search(r"\| model-wise \| 62\.5 \| [\d.]+ - [\d.]+ \| 75\.0, 50\.0 \| 100\.0 \| 62 % \|", text)
    rows = list(comparisons(answers, parents=("a", "b")))[2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| model-wise", "a", "+37.5"],
        ["| model-wise", "equal", "+12.5"],
    ]


def test_tasks_together_are_one_task_with_all_samples() -> None:
    first, second = {"base": [scores([0, 1])]}, {"base": [scores([1, 1, 1])]}
    assert "| base | 80.0 |" in task_part("together", joined([first, second]), parents=("base",))


def test_problems_that_the_pilot_or_a_person_saw_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "out" / "tasks" / "english" / "search.jsonl", [{"id": "0"}, {"id": "2"}])
    (tmp_path / "seen.json").write_text('{"mawps": ["1"], "mgsm": ["3"]}', encoding="utf-8")
    _, given = program.parsed(
        [
            "report",
            "--out",
            str(tmp_path / "out"),
            "--seen",
            str(tmp_path / "seen.json"),
            "--report-on",
            "mawps",
            "msvamp",
        ]
    )
    assert seen_problems(program.settings_of(given)) == {"msvamp": {"0", "2"}, "mawps": {"1"}}
    assert without({"a": [scores([1, 0, 1])]}, frozenset({"0", "2"}))["a"][0].right == (0,)


def test_a_short_name_is_the_last_part_of_a_hub_id_or_folder() -> None:
    assert short_name("augmxnt/shisa-gamma-7b-v1@main") == "shisa-gamma-7b-v1"
    assert short_name("/models/my.adapter/") == "my-adapter"
    assert short_name("zoo:ja") == "zoo-ja"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapters", "a/b"], "need --base"),
        (["--seeds", "0"], "--seeds is 0, at least 1"),
        (["--data", "nowhere"], "no such folder"),
        (["--base", "x/y", "--adapters", "a/b", "c/b"], "Rename a folder"),
        (["--racing", "0"], "--racing 0.0: a share above 0"),
        (["--seen", "nowhere.json"], "no such file"),
        (["--method", "tiess"], "did you mean 'ties'?"),
        (["--prompt", "chatt"], "--prompt chatt: is neither"),
    ],
)
def test_bad_arguments_end_with_2_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        program.main(["all", "--out", str(tmp_path / "out"), *words])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_shows_the_computed_costs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "first-real-search.md").read_text(encoding="utf-8")
    assert "\n".join(rows()) in page


def test_weights_may_not_be_in_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["unpack", "--out", str(Path(__file__).parents[1] / "weights")])
    assert "is in the repository" in capsys.readouterr().err


def test_a_folder_that_another_process_works_in_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "out"), pytest.raises(SystemExit) as raised:
        program.main(["unpack", "--out", str(tmp_path / "out"), "--base", "zoo:base"])
    assert raised.value.code == 2
    assert "another process" in capsys.readouterr().err


def tiny_data(folder: Path) -> Path:
    problems = [
        {"idx": i, "question": f"問題：{i}個と2個で何個ですか？\n解答：", "answer": str(i + 2)} for i in range(12)
    ]
    (folder / "mawps_ja").mkdir(parents=True)
    (folder / "mawps_ja" / "dataset_mawps_test.json").write_text(json.dumps(problems), encoding="utf-8")
    for language, key in (("English", "how many ?"), ("Japanese", "何個ですか？")):
        rows = [{"m_query": f"{i} 1 {key}", "equation": "", "response": f"{i}.0"} for i in range(6)]
        written(folder / "msvamp" / f"test_{language}.json", rows)
    (folder / "mgsm").mkdir()
    lines = [f"{i}個買いました。何個ですか？\t{i}\n" for i in range(5)]
    (folder / "mgsm" / "mgsm_ja.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


@PEFT_ASKS
@pytest.mark.slow
def test_all_stages_on_a_pico_gemma_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights know no Japanese, so the bound on the perplexity is raised."""
    monkeypatch.setattr(base_stage, "MOST_PERPLEXITY", 1e9)
    base = pico_llm(tmp_path / "base", family="gemma3_text", n_blocks=3)
    out = tmp_path / "out"
    words = ["--out", str(out), "--data", str(tiny_data(tmp_path / "data")), "--base", str(base), "--device", "cpu"]
    words += ["--examples", "8", "--rank", "2", "--batch", "4", "--search-samples", "4", "--report-samples", "5"]
    words += ["--pilot-samples", "2", "--seeds", "1", "--candidates", "10", "--max-new-tokens", "4"]
    program.main(["all", *words])
    assert {path.name for path in (out / "adapters").iterdir()} >= {"math-a", "math-b", "ja"}
    report = (out / "report" / "report.md").read_text(encoding="utf-8")
    sizes = ["mawps, 5 samples", "msvamp, 5 samples", "mgsm, 5 samples", "together, 15 samples"]
    costs = ["| training ja |", "| search interpolated (seeds: 1, candidates: 10, tokens: "]
    assert all(row in report for row in [*sizes, "| interpolated | grid |", *costs])
    pilot = (out / "pilot" / "pilot.md").read_text(encoding="utf-8")
    assert "| base | Japanese, three examples |" in pilot
    assert "| math-a | English |" in pilot
    searched = {json.loads(line)["id"] for line in (out / "tasks/mawps/search.jsonl").read_text().splitlines()}
    reported = {json.loads(line)["id"] for line in (out / "report/mawps-base-0.jsonl").read_text().splitlines()}
    assert len(searched) == 4
    assert not searched & reported

    journals = {path: path.read_bytes() for path in out.glob("search/*/journal.jsonl")}
    assert len(journals) == 3
    program.main(["all", *words])
    assert {path: path.read_bytes() for path in journals} == journals
    assert (out / "report" / "report.md").read_text(encoding="utf-8") == report
    with pytest.raises(SystemExit):
        program.main(["search", *words, "--method", "linear"])
