"""Metrics of the `evaluate` library as ours, and ours as its."""

from pathlib import Path

import evaluate
import pytest

import evovlm.tasks.evaluate_modules
from evovlm.errors import CodeNotAllowed, TaskError
from evovlm.evaluation.scorer import check_scorer, open_scorer
from evovlm.tasks.metrics.scoring import Answer, Scoring
from evovlm.tasks.metrics.table import score_answer
from evovlm.tasks.sample import Sample

SCRIPT = '''
import datasets
import evaluate


class Shared(evaluate.Metric):
    """{note}"""

    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({{"predictions": datasets.Value("{kind}"), "references": {references}}}),
        )

    def _compute(self, predictions, references):
        pairs = list(zip(predictions, references))
        return {result}
'''
HALF = "{'value': sum(0.5 for p, r in pairs if p in r)}"
TEXT = 'datasets.Value("string")'


def script(folder: Path, *, result: str = HALF, kind: str = "string", references: str = TEXT) -> Path:
    """Write a metric's script; every folder's is another module to `evaluate`."""
    path = folder / "shared_part.py"
    path.write_text(SCRIPT.format(note=folder, kind=kind, references=references, result=result), encoding="utf-8")
    return path


def score(metric: str, text: str = "猫", *references: str) -> Answer:
    sample = Sample(id="1", question="", references=references or ("赤い猫",))
    return open_scorer(Scoring(metric=metric), allow_code=True)(sample, text)


def test_a_local_script_is_a_metric(tmp_path: Path) -> None:
    name = f"evaluate:{script(tmp_path)}"
    assert score(name).score == 0.5
    assert score(name, "犬").score == 0.0
    assert score(name, "犬", "猫", "子犬").score == 0.5


def test_the_gate_works_on_it_too(tmp_path: Path) -> None:
    sample = Sample(id="1", question="", references=("赤い小猫のcat",))
    scoring = Scoring(metric=f"evaluate:{script(tmp_path)}", gate="script")
    found = open_scorer(scoring, allow_code=True)(sample, "cat")
    assert (found.score, found.ungated) == (0.0, 0.5)


def test_a_metric_of_lists_of_references_gets_lists(tmp_path: Path) -> None:
    path = script(
        tmp_path, references=f"datasets.Sequence({TEXT})", result="{'value': sum(p in r for p, r in pairs) / 1}"
    )
    assert score(f"evaluate:{path}", "猫", "猫").score == 1.0
    assert score(f"evaluate:{path}", "猫", "赤い猫").score == 0.0


def test_one_of_several_numbers_is_named_and_brought_to_the_unit_interval(tmp_path: Path) -> None:
    path = script(tmp_path, result="{'bleu': 25.0, 'lengths': [3], 'counts': [1, 2], 'version': 'x'}")
    assert score(f"evaluate:{path}#bleu*0.01").score == 0.25
    with pytest.raises(TaskError, match=r"bleu, lengths\. Name one of them after a #"):
        score(f"evaluate:{path}")
    with pytest.raises(TaskError, match="which number counts"):
        score(f"evaluate:{path}#counts")
    with pytest.raises(TaskError, match=r"gave 25.*\*0\.01"):
        score(f"evaluate:{path}#bleu")


@pytest.mark.parametrize("result", ["{}", "None", "{'value': float('nan')}", "1 / 0"])
def test_a_metric_that_gives_no_number_is_an_error(tmp_path: Path, result: str) -> None:
    with pytest.raises(TaskError, match="shared_part"):
        score(f"evaluate:{script(tmp_path, result=result)}")


def test_a_metric_of_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="both texts"):
        score(f"evaluate:{script(tmp_path, kind='int32')}")


def test_a_broken_script_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken_part.py"
    path.write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(TaskError, match="nothing_of_that_name"):
        score(f"evaluate:{path}")
    path.write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(TaskError, match="cannot load"):
        score(f"evaluate:{path}*1")


@pytest.mark.parametrize("name", ["evaluate:", "evaluate:x*", "evaluate:x#", "evaluate:x*y", "evaluate:x#a#b"])
def test_a_name_that_cannot_be_read_is_an_error(name: str) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        score(name)


def test_a_script_that_is_not_there_is_an_error_and_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        score(f"evaluate:{tmp_path / 'nothing.py'}")


def test_a_folder_without_a_script_of_its_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        score(f"evaluate:{tmp_path}")


def test_no_script_runs_unless_the_user_allows_it(tmp_path: Path) -> None:
    path, ran = tmp_path / "trap_part.py", tmp_path / "ran"
    path.write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n", encoding="utf-8")
    scoring = Scoring(metric=f"evaluate:{path}")
    check_scorer(scoring)
    with pytest.raises(CodeNotAllowed, match=r"trap_part\.py.*\n.*--allow-code"):
        open_scorer(scoring)
    with pytest.raises(TaskError, match="open_scorer"):
        score_answer(scoring, Sample(id="1", question="", references=("猫",)), "猫")
    assert not ran.exists()
    with pytest.raises(TaskError, match="cannot load"):
        open_scorer(scoring, allow_code=True)
    assert ran.exists()


def test_the_files_that_a_script_brings_along_are_listed_too(tmp_path: Path) -> None:
    path = script(tmp_path)
    more = "from .beside import x\nimport further  # From: https://example.org/further.py\n"
    path.write_text(more + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(CodeNotAllowed) as refused:
        open_scorer(Scoring(metric=f"evaluate:{path}"))
    for file in (str(path), str(tmp_path / "beside.py"), "https://example.org/further.py"):
        assert f"    {file} (" in str(refused.value)


@pytest.mark.parametrize("name", ["EVOVLM_ALLOW_HUB_METRICS", "EVOVLM_ALLOW_CODE", "ALLOW_CODE"])
def test_the_environment_cannot_allow_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(CodeNotAllowed, match="hub:exact_match"):
        open_scorer(Scoring(metric="evaluate:exact_match"))


def test_an_unreachable_hub_is_an_error_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    with pytest.raises(TaskError, match="save it and name its path"):
        score("evaluate:evovlm_no_such_metric")


MODULES = Path(evovlm.tasks.evaluate_modules.__file__).parent


def test_our_rouge_is_a_module_of_evaluate() -> None:
    module = evaluate.load(str(MODULES / "rouge_l_ja"), keep_in_memory=True)
    found = module.compute(predictions=["これは東京タワーです。", "UFO"], references=["東京タワー", "UFO"])
    assert found == {"rouge_l_ja": pytest.approx(0.75)}
    assert module.compute(predictions=["UFO"], references=["空飛ぶUFO"], gate="script") == {"rouge_l_ja": 0.0}


def test_our_accuracy_is_a_module_of_evaluate() -> None:
    module = evaluate.load(str(MODULES / "accuracy"), keep_in_memory=True)
    answers, numbers = ["答えは1,000円です。", "答えは2です"], ["1000", "3"]
    assert module.compute(predictions=answers, references=numbers) == {"accuracy": 0.5}
    assert module.compute(predictions=answers, references=numbers, extractor="paper") == {"accuracy": 0.0}
    assert score(f"evaluate:{MODULES / 'accuracy'}", "答えは2です", "2").score == 1.0


def test_every_module_is_in_a_folder_of_its_name() -> None:
    folders = sorted(path.name for path in MODULES.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert folders == ["accuracy", "rouge_l_ja"]
    for name in folders:
        assert (MODULES / name / f"{name}.py").is_file()
