"""Tasks of the lm-evaluation-harness, from local files, scored and as a fitness; offline."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from evovlm.errors import CodeNotAllowed, TaskError
from evovlm.evaluation.answering import open_task, score_model
from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.candidate import Evaluation
from evovlm.tasks.harness_name import HarnessName
from evovlm.tasks.task import Split
from tests.evaluation.test_evaluator import recipe, template

pytest.importorskip("lm_eval", reason='needs the extra: pip install "evovlm[lm-eval]"')
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]

GENERATED = {
    "output_type": "generate_until",
    "doc_to_target": "{{answer}}",
    "num_fewshot": 1,
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "filter_list": [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "digits", "filter": [{"function": "regex", "regex_pattern": "(\\d+)"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOSEN = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{label}}",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
ROLLED = {
    "output_type": "loglikelihood_rolling",
    "doc_to_target": "{{question}}",
    "doc_to_text": "",
    "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with five documents to train with and five to test."""
    for part, start in (("train", 0), ("test", 10)):
        rows = [
            {
                "question": f"{number}と2で{'?' * (number % 3 + 1)}",
                "answer": str(number + 2),
                "choices": [str(number + 2), "三" * (number % 2 + 1), "人"],
                "label": number % 3,
            }
            for number in range(start, start + 5)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"{part}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def task_file(folder: Path, settings: dict[str, object], **changes: object) -> str:
    """Write a task and return its name."""
    parts = {part: str(folder / f"{part}.jsonl") for part in ("train", "test")}
    document = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": parts},
        "training_split": "train",
        "test_split": "test",
        "doc_to_text": "{{question}}\n答え:",
        **settings,
        **changes,
    }
    path = folder / "local.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return f"lm_eval:{path}"


@pytest.fixture(scope="module")
def loaded(models: Path) -> LoadedModel:
    return load_model(models / "math", device="cpu")


def scored(loaded: LoadedModel, name: str, split: Split = Split.REPORT, limit: int | None = None) -> ScoredTask:
    return score_model(loaded, tasks=[TaskChoice(name=name, limit=limit)], split=split, allow_code=True)[0]


@pytest.mark.parametrize(
    ("settings", "metric"), [(GENERATED, "#exact_match,digits"), (GENERATED, ""), (CHOSEN, "#acc_norm"), (CHOSEN, "")]
)
def test_a_model_scores_what_the_harnesss_own_model_scores(
    loaded: LoadedModel, files: Path, settings: dict[str, object], metric: str
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    name = task_file(files, settings)
    ours = scored(loaded, name + metric)
    theirs = simple_evaluate(
        HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=2, max_length=512),
        tasks=[name.removeprefix("lm_eval:")],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    assert theirs is not None
    wanted, _, chosen = metric.removeprefix("#").partition(",")
    first = "whole" if settings is GENERATED else "none"
    wanted = wanted or ("exact_match" if settings is GENERATED else "acc")
    rows = [row for row in theirs["samples"]["local"] if row["filter"] == (chosen or first)]
    assert [answer.score for answer in ours.answers] == [float(row[wanted]) for row in rows]
    assert [answer.sample.question for answer in ours.answers] == [row["arguments"][0][0] for row in rows]
    if settings is GENERATED:
        assert [answer.text for answer in ours.answers] == [row["resps"][0][0] for row in rows]
    else:
        assert 0 < ours.score.score < 1


def test_the_search_sees_no_test_document(loaded: LoadedModel, files: Path) -> None:
    name = task_file(files, GENERATED)
    report, search = scored(loaded, name), scored(loaded, name, Split.SEARCH)
    assert {answer.sample.references for answer in report.answers} == {(str(n + 2),) for n in range(10, 15)}
    assert {answer.sample.references for answer in search.answers} == {(str(n + 2),) for n in range(5)}
    for answer in search.answers:
        # One example and the question: the example is never the question itself.
        example, question = answer.sample.question.split("\n\n")
        assert question.split("と")[0] != example.split("と")[0]
    assert not any(f"{n}と" in answer.sample.question for answer in search.answers for n in range(10, 15))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_split": None, "num_fewshot": 0}, "has only the report split"),
        ({"fewshot_split": "test"}, "examples are report documents"),
        ({"dataset_kwargs": "same"}, "contains documents of the report split"),
    ],
)
def test_a_task_that_would_show_the_report_to_a_search_is_refused(
    files: Path, changes: dict[str, object], message: str
) -> None:
    if changes.get("dataset_kwargs") == "same":
        test = str(files / "test.jsonl")
        changes = {"dataset_kwargs": {"data_files": {"train": test, "test": test}}}
    name = task_file(files, GENERATED, **changes)
    with pytest.raises(TaskError, match=message):
        open_task(TaskChoice(name=name), Split.SEARCH, allow_code=True)
    open_task(TaskChoice(name=name), Split.REPORT, allow_code=True)


def test_a_search_takes_it_as_a_fitness(models: Path, files: Path) -> None:
    merge = template(models)
    name = task_file(files, CHOSEN) + "#acc_norm"
    evaluator = Evaluator.open(merge, tasks=[TaskChoice(name=name)], device="cpu", allow_code=True)
    first = evaluator.evaluate(recipe(merge, 0.9, 0.1))
    other = evaluator.evaluate(recipe(merge, 0.1, 2.0))
    again = evaluator.evaluate(recipe(merge, 0.9, 0.1))
    assert isinstance(first, Evaluation)
    assert isinstance(other, Evaluation)
    assert isinstance(again, Evaluation)
    assert first.scores[name].n == 5
    assert first.fitness == first.scores[name].score
    assert again.scores == first.scores


def test_a_limit_and_what_was_measured(loaded: LoadedModel, files: Path) -> None:
    found = scored(loaded, task_file(files, GENERATED) + "#exact_match,digits", limit=2)
    assert (found.score.n, found.measured, found.gate) == (2, "exact_match, filter digits", None)


@pytest.mark.parametrize(
    ("settings", "changes", "chosen", "message"),
    [
        (CHOSEN, {}, "#bleu", "no metric 'bleu', only: acc, acc_norm"),
        (CHOSEN, {}, "#acc,strict", "no filter 'strict'"),
        (ROLLED, {}, "", r"not a mean over documents[\s\S]*no metric that is"),
        (CHOSEN, {"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, "", "cannot load it"),
        (CHOSEN, {"doc_to_text": "{{question"}, "", "cannot load it"),
    ],
)
def test_what_is_not_a_score_is_reported_before_a_model_is_loaded(
    files: Path, settings: dict[str, object], changes: dict[str, object], chosen: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        open_task(TaskChoice(name=task_file(files, settings, **changes) + chosen), Split.REPORT, allow_code=True)


GROUP = "group: mine\ntask:\n  - arc_easy\n  - {task: arc_challenge, num_fewshot: 2}\nmetadata: {version: 1}\n"


@pytest.mark.parametrize("name", ["FILE", "ai2_arc", "mmlu"])
def test_a_group_is_refused_with_its_tasks_before_their_data_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager.load", None)
    (tmp_path / "group.yaml").write_text(GROUP, encoding="utf-8")
    spec = str(tmp_path / "group.yaml") if name == "FILE" else name
    listed = "mmlu_humanities, mmlu_other" if name == "mmlu" else "arc_challenge, arc_easy"
    with pytest.raises(TaskError, match=rf"is a group of \d tasks[\s\S]*Name its tasks: {listed}"):
        open_task(TaskChoice(name=f"lm_eval:{spec}"), Split.REPORT, allow_code=True)


def test_sampling_gives_the_same_answers_each_time(loaded: LoadedModel, files: Path) -> None:
    drawn = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "max_gen_toks": 12}
    name = task_file(files, GENERATED, generation_kwargs=drawn, repeats=2)
    first, again = scored(loaded, name), scored(loaded, name)
    assert [answer.text for answer in first.answers] == [answer.text for answer in again.answers]
    greedy = scored(loaded, task_file(files, GENERATED, generation_kwargs={"max_gen_toks": 12}))
    assert [answer.text for answer in first.answers] != [answer.text for answer in greedy.answers]


def test_a_setting_that_is_not_supported_is_refused(loaded: LoadedModel, files: Path) -> None:
    name = task_file(files, GENERATED, generation_kwargs={"penalty_alpha": 0.6})
    with pytest.raises(TaskError, match="ask for penalty_alpha"):
        scored(loaded, name)


def test_rolling_likelihoods_are_those_of_the_harness(loaded: LoadedModel) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from evovlm.evaluation.batches import Batches
    from evovlm.evaluation.harness_model import Encoder, HarnessModel

    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0, metadata=("x", 0, 1))
        for text in ("あめが3個あります。" * 9, "x")
    ]
    encoder = Encoder(tokenizer=loaded.tokenizer, longest=16)
    ours = HarnessModel(loaded, encoder=encoder, batches=Batches(log=None, device=loaded.device))
    theirs = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, max_length=16)
    found, expected = ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_the_extra_the_message_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(TaskError, match=r'pip install "evovlm\[lm-eval\]"'):
        open_task(TaskChoice(name="lm_eval:gsm8k"), Split.REPORT)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="this file was not found"):
        open_task(TaskChoice(name=f"lm_eval:{tmp_path / 'nowhere.yaml'}"), Split.REPORT)


def test_no_task_file_runs_unless_the_user_allows_it(files: Path) -> None:
    ran = files / "ran"
    (files / "traps.py").write_text(
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\ndef text(doc):\n    return 'x'\n", encoding="utf-8"
    )
    name = task_file(files, GENERATED)
    path = Path(name.removeprefix("lm_eval:"))
    (files / "_shared").write_text("doc_to_text: !function traps.text\n", encoding="utf-8")
    rest = path.read_text(encoding="utf-8").replace("doc_to_text:", "description:")
    path.write_text(f"include: _shared\n{rest}", encoding="utf-8")
    with pytest.raises(CodeNotAllowed, match="--allow-code") as refused:
        open_task(TaskChoice(name=name), Split.REPORT)
    for file in (path, files / "_shared", files / "traps.py"):
        assert f"    {file} (" in str(refused.value)
    assert not ran.exists()
    open_task(TaskChoice(name=name), Split.REPORT, allow_code=True)
    assert ran.exists()


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_task_loads_no_metric_script_unless_the_user_allows_it(
    files: Path, monkeypatch: pytest.MonkeyPatch, swallowed: bool
) -> None:
    """A task of the harness asks `evaluate` for rouge; a folder of that name is in the current one."""
    ran = files / "ran"
    (files / "rouge").mkdir()
    (files / "rouge" / "rouge.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    loading = "import evaluate\nevaluate.load('rouge')\n"
    if swallowed:
        loading = "import evaluate\ntry:\n    evaluate.load('rouge')\nexcept Exception:\n    raise RuntimeError\n"
    (files / f"asks_{swallowed}.py").write_text(f"{loading}def text(doc):\n    return 'x'\n", encoding="utf-8")
    name = task_file(files, {**GENERATED, "doc_to_text": None})
    path = Path(name.removeprefix("lm_eval:"))
    path.write_text(f"{path.read_text()}doc_to_text: !function asks_{swallowed}.text\n", encoding="utf-8")
    monkeypatch.chdir(files)
    # As if the file came with the harness.
    monkeypatch.setattr(HarnessName, "code", ())
    with pytest.raises(CodeNotAllowed, match=rf"{files}/rouge \(loaded by lm_eval:"):
        open_task(TaskChoice(name=name), Split.REPORT)
    assert not ran.exists()
    with pytest.raises(TaskError, match="cannot load it"):
        open_task(TaskChoice(name=name), Split.REPORT, allow_code=True)
    assert ran.exists()


def test_a_task_that_runs_what_models_write_is_refused(files: Path) -> None:
    with pytest.raises(TaskError, match="runs code that the model writes"):
        open_task(TaskChoice(name=task_file(files, GENERATED, unsafe_code=True)), Split.REPORT, allow_code=True)
