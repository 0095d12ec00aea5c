"""What a search would see of a report is said before the run; tasks of one's own run, reported sets are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evovlm.errors import ConfigError
from evovlm.runs.before.leaks import absence_warnings, leak_warnings
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.kinds import config_from_mapping, load_config
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.searching.evolve import evolve
from evovlm.tasks import task as task_module
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.emoji_pictures import NOTO_FONT_VARIABLE
from tests.pico_clip import pico_clip
from tests.runs.conftest import WriteConfig
from tests.runs.test_evolve import Watcher


class Listener(Watcher):
    """Keeps the warnings that a run begins with."""

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        super().started(candidates=candidates, generations=generations, done=done, warnings=warnings)
        self.warnings = warnings


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def own_task(folder: Path) -> str:
    """Write a task of one's own whose two splits share a question; return its path from the folder on."""
    rows = [{"question": f"{n} apples and none more. How many?", "answer": n} for n in range(4, 8)]
    lines(folder / "mine" / "train.jsonl", *rows[:3])
    lines(folder / "mine" / "test.jsonl", *rows[2:])
    (folder / "mine.yaml").write_text(
        "name: mine\ndata: mine\nsplits: {search: train, report: test}\nprompt: zoo-problem-en\nmetric: accuracy\n"
        "decoding: {max_new_tokens: 4}\n",
        encoding="utf-8",
    )
    return "mine.yaml"


def own_pictures(folder: Path) -> str:
    """Write a task of one's own whose report shows one of the search's pictures a little brighter; return its path."""
    (folder / "seen").mkdir()
    for n in range(5):
        brighter = np.uint8(2 * (n == 4))
        patches = np.random.default_rng(n % 4).integers(0, 200, size=(4, 4, 3), dtype=np.uint8) + brighter
        Image.fromarray(patches.repeat(8, axis=0).repeat(8, axis=1)).save(folder / "seen" / f"{n}.png")
    rows = [{"id": f"s{n}", "question": "何の絵?", "answer": "赤", "image": f"{n}.png"} for n in range(5)]
    lines(folder / "seen" / "train.jsonl", *rows[:3])
    lines(folder / "seen" / "test.jsonl", *rows[3:])
    (folder / "seen.yaml").write_text(
        "name: seen\ndata: seen\nsplits: {search: train, report: test}\ncolumns: {id: id, image: image}\n"
        "prompt: ja-shisa-vqa\nmetric: exact_match\n",
        encoding="utf-8",
    )
    return "seen.yaml"


def warnings_of(path: Path) -> tuple[str, ...]:
    return leak_warnings(load_config(path).resolved(relative_to=path.parent))


@pytest.fixture(autouse=True)
def _no_hub_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    # Data that this machine has loaded before must not matter.
    monkeypatch.setattr(task_module, "is_cached", lambda _hub_id: False)


def test_a_search_on_embedded_problems_shows_nothing_of_their_report(write_config: WriteConfig) -> None:
    assert warnings_of(write_config({"tasks": [{"name": "word_problems_en"}, {"name": "emoji_ja"}]})) == ()


def test_a_search_on_its_own_report_split_is_reported(write_config: WriteConfig) -> None:
    from evovlm.tasks.published import embedded_file

    data = str(embedded_file("word_problems_ja.report"))
    (warning,) = warnings_of(write_config({"tasks": [{"name": "word_problems_ja", "data": data, "limit": 5}]}))
    assert "a search on word_problems_ja sees 5 of the report samples of word_problems_ja (the same words)" in warning


def test_translations_of_one_set_count_as_the_same_samples(write_config: WriteConfig, tmp_path: Path) -> None:
    search = [{"question": f"問い{n}", "answer_number": n} for n in range(4)]
    lines(tmp_path / "ja.jsonl", *search)
    report = [{"question": f"question {n}", "answer": f"#### {n}"} for n in range(252)]
    lines(tmp_path / "en.jsonl", *report)
    config = write_config(
        {
            "tasks": [{"name": "gsm8k_ja", "data": "ja.jsonl"}],
            "report": [{"name": "gsm8k", "data": "en.jsonl"}],
        }
    )
    (warning,) = warnings_of(config)
    assert "a search on gsm8k_ja sees 2 of the report samples of gsm8k" in warning
    assert "0001 = 0251, 0002 = 0252" in warning


def test_a_task_of_one_s_own_runs_and_its_overlap_is_said_first(write_config: WriteConfig, tmp_path: Path) -> None:
    config = load_config(write_config({"tasks": [{"name": own_task(tmp_path)}]}))
    resolved = config.resolved(relative_to=tmp_path)
    assert resolved.tasks[0].name == str(tmp_path / "mine.yaml")
    assert config_from_mapping(resolved.as_mapping()).as_mapping() == resolved.as_mapping()
    found = preflight_search(resolved)
    assert any("a search on mine sees 1 of the report samples of mine" in warning for warning in found.warnings)
    assert found.problems == ()
    listener = Listener()
    result = evolve(config, out=tmp_path / "run", relative_to=tmp_path, observer=listener)
    assert any("a search on mine sees 1 of" in warning for warning in listener.warnings)
    assert list(result.evaluation.scores) == ["mine"]
    assert read_journal(tmp_path / "run" / "journal.jsonl").config == resolved.as_mapping()
    again = evolve(config, out=tmp_path / "run", relative_to=tmp_path, resume=True)
    assert again.fitness == result.fitness


def test_data_that_a_report_names_and_that_is_broken_is_a_problem(write_config: WriteConfig, tmp_path: Path) -> None:
    lines(tmp_path / "broken.jsonl", {"colour": "red"})
    path = write_config({"report": [{"name": "mgsm_ja", "data": "broken.jsonl"}]})
    resolved = load_config(path).resolved(relative_to=path.parent)
    assert resolved.report[0].data == str(tmp_path / "broken.jsonl")
    found = preflight_search(resolved)
    assert ["there is no 'question'" in str(problem) for problem in found.problems] == [True]


def test_similar_pictures_are_reported_on_request(write_config: WriteConfig, tmp_path: Path) -> None:
    pico_clip(tmp_path / "clip")
    search = {"tasks": [{"name": own_pictures(tmp_path)}]}
    assert warnings_of(write_config(search)) == ()
    path = write_config({**search, "guard": {"near_pictures": "clip", "threshold": 0.999}})
    resolved = load_config(path).resolved(relative_to=tmp_path)
    assert resolved.guard is not None
    assert resolved.guard.near_pictures == str(tmp_path / "clip")
    assert config_from_mapping(resolved.as_mapping()).as_mapping() == resolved.as_mapping()
    (warning,) = [each for each in leak_warnings(resolved) if "report samples of seen" in each]
    assert "a search on seen sees pictures similar to those of 1 of the report samples of seen" in warning
    assert "a cosine of 0.999 or more): s0 ~ s4 (" in warning
    assert warning in preflight_search(resolved).warnings
    everything = leak_warnings(resolved.guarded(near_pictures=None, threshold=-1.0))
    (warning,) = [each for each in everything if "report samples of seen" in each]
    assert "2 of the report samples" in warning
    assert warning.count("~") == 3


def test_a_machine_without_the_font_compares_the_other_pictures(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NOTO_FONT_VARIABLE, str(tmp_path / "absent.ttf"))
    pico_clip(tmp_path / "clip")
    guard = {"near_pictures": "clip", "threshold": 1.0}
    warnings = warnings_of(write_config({"tasks": [{"name": "emoji_ja", "limit": 2}], "guard": guard}))
    assert not [each for each in warnings if "could not be compared" in each]


def test_samples_that_this_machine_cannot_draw_are_reported_before_a_search(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config({"tasks": [{"name": "emoji_ja", "limit": 2}]})
    resolved = load_config(path).resolved(relative_to=path.parent)
    assert absence_warnings(resolved) == ()
    monkeypatch.setenv(NOTO_FONT_VARIABLE, str(tmp_path / "absent.ttf"))
    (warning,) = absence_warnings(resolved)
    assert warning.startswith(
        "emoji_ja, report split: samples left out, because this machine cannot draw their pictures: 100. The "
    )
    assert "apt-get install fonts-noto-color-emoji" in warning
    assert warning in preflight_search(resolved).warnings


def test_without_pictures_no_model_for_them_is_loaded(write_config: WriteConfig) -> None:
    assert warnings_of(write_config({"guard": {"near_pictures": "no/such/model"}})) == ()


def test_a_guard_s_model_that_is_not_there_is_a_problem(write_config: WriteConfig, tmp_path: Path) -> None:
    path = write_config({"tasks": [{"name": own_pictures(tmp_path)}], "guard": {"near_pictures": "./clip"}})
    resolved = load_config(path).resolved(relative_to=tmp_path)
    found = preflight_search(resolved)
    assert ["CLIP model './clip': folder not found" in str(problem) for problem in found.problems].count(True) == 1


def test_a_metric_that_is_missing_is_a_problem_and_none_is_run(write_config: WriteConfig, tmp_path: Path) -> None:
    name = own_task(tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text.replace("metric: accuracy", "metric: evaluate:./trap.py"), encoding="utf-8")
    (tmp_path / "trap.py").write_text("raise SystemExit('a trap')", encoding="utf-8")
    resolved = load_config(write_config({"tasks": [{"name": name}]})).resolved(relative_to=tmp_path)
    assert preflight_search(resolved).problems == ()
    (tmp_path / "trap.py").rename(tmp_path / "gone.py")
    assert "does not exist" in str(preflight_search(resolved).problems[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": [{"name": "gsm8k_ja", "decoding": "serach"}]}, r"tasks\[0\].decoding: .*did you mean 'search'"),
        ({"tasks": [{"name": "word_problems_ja", "decoding": "search"}]}, r"tasks\[0\].decoding: .*unknown decoding"),
        ({"guard": {"near_pictures": "clip", "threshold": 2.0}}, r"guard.threshold: .*less than or equal to 1"),
        ({"guard": {"near_picture": "clip"}}, r"guard.near_picture: unknown key; did you mean 'near_pictures'"),
        ({"tasks": [{"name": "gone.yaml"}]}, r"tasks\[0\].name: .*gone\.yaml"),
        ({"report": [{"name": "gsm8k_ja"}]}, r"report\[0\].name: .*no report split"),
        ({"report": [{"name": "mgsm_jp"}]}, r"report\[0\].name: .*did you mean 'mgsm_ja'"),
        ({"report": [{"name": "mgsm_ja", "data": "gone.tsv"}]}, r"report\[0\].data: no such file"),
        ({"report": [{"name": "mgsm_ja"}, {"name": "mgsm_ja"}]}, r"report: a task is named twice"),
        ({"tasks": [{"name": "mine.yaml"}, {"name": "./mine.yaml"}]}, r"tasks: a task is named twice"),
    ],
)
def test_sections_that_cannot_be_are_named(
    write_config: WriteConfig, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    own_task(tmp_path)
    with pytest.raises(ConfigError, match=words):
        load_config(write_config(changes))


def test_a_decoding_and_places_of_others_are_passed_on(write_config: WriteConfig) -> None:
    tasks = [
        {"name": "gsm8k_ja", "decoding": "search", "prompt": "chat", "data": "hub:org/set@v1"},
        {"name": "lm_eval:mgsm_direct_ja.yaml"},
    ]
    config = load_config(write_config({"tasks": tasks, "report": [{"name": "lm_eval:jsquad"}]}))
    resolved = config.resolved(relative_to=Path("/elsewhere"))
    assert [(task.name, task.decoding, task.prompt, task.data) for task in resolved.tasks] == [
        ("gsm8k_ja", DecodingChanges(like="search"), "chat", "hub:org/set@v1"),
        ("lm_eval:/elsewhere/mgsm_direct_ja.yaml", None, None, None),
    ]


def test_a_named_decoding_is_the_one_that_a_search_uses(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evovlm.evaluation.evaluator import Evaluator
    from evovlm.runs.searching.evolve import open_evaluator

    lines(tmp_path / "ja.jsonl", {"question": "6と7では?", "answer_number": 13})
    opened: list[object] = []

    def opening(_template: object, *, tasks: list[object], **_: object) -> None:
        opened.extend(tasks)

    monkeypatch.setattr(Evaluator, "open", opening)
    config = load_config(write_config({"tasks": [{"name": "gsm8k_ja", "data": "ja.jsonl", "decoding": "search"}]}))
    open_evaluator(config)
    assert [choice.decoding for choice in opened] == [DecodingChanges(like="search")]  # type: ignore[attr-defined]
