import json
from pathlib import Path

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from evovlm.cli.tasks import tasks as tasks_command
from evovlm.errors import TaskError
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.emoji_pictures import PictureSpec
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.prompts import CHAT, PLACE, PROMPTS
from evovlm.tasks.task import Sample, Split, Task, parse_split
from tests.tasks.public_data import public_file

PICTURE = {
    "artist": "openmoji",
    "background": ["#cfe3ff"],
    "objects": [{"emoji": "👺", "x": 30.5, "y": 33.0, "size": 44.0, "rotation": -12.0}],
}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_row_names_a_prompt_and_a_metric_that_exist(task: Task) -> None:
    assert task.prompt in PROMPTS or task.prompt == CHAT
    assert task.scoring.metric in METRICS
    assert task.scoring.gate is None or task.scoring.gate in GATES
    assert task.scoring.extractor in EXTRACTORS
    assert task.splits
    assert task.prompt == CHAT or task.needs_images == (PLACE in PROMPTS[task.prompt])
    assert task.is_local == (task.hub_id is None and task.licence is None)
    assert set(task.sizes) <= task.splits
    assert all(task.decoding_named(name) == cheaper for name, cheaper in task.cheaper.items())


def test_the_message_about_a_misspelt_task_names_the_closest() -> None:
    with pytest.raises(TaskError, match="did you mean 'mgsm_ja'"):
        get_task("mgsm-ja")


def test_a_split_that_a_task_lacks_is_an_error_before_any_data_is_read() -> None:
    with pytest.raises(TaskError, match="mgsm_ja has no split 'search'"):
        get_task("mgsm_ja").samples(Split.SEARCH)
    with pytest.raises(TaskError, match="gsm8k_ja has no split 'report'"):
        get_task("gsm8k_ja").samples(Split.REPORT)
    with pytest.raises(TaskError, match="search or report"):
        parse_split("test")


def test_the_hub_is_asked_only_when_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr("evovlm.tasks.hub.unreachable_reason", lambda: None)
    for name, split in (("gsm8k", Split.REPORT), ("ja_vg_vqa", Split.SEARCH)):
        with pytest.raises(TaskError, match=r"no network[\s\S]*--data TASK=PATH"):
            get_task(name).samples(split)


def test_mgsm_is_read_from_its_tsv() -> None:
    samples = get_task("mgsm_ja").samples(Split.REPORT, data=public_file("mgsm/mgsm_ja.tsv"))
    assert len(samples) == 250
    assert samples[0].references == ("18",)
    # Written 2,125 in the file.
    assert samples[146].references == ("2125",)
    assert all(float(sample.references[0]) is not None for sample in samples)
    folder = get_task("mgsm_ja").samples(Split.REPORT, data=public_file("mgsm"))
    assert folder == samples


def test_a_limit_takes_the_first(tmp_path: Path) -> None:
    path = tmp_path / "problems.tsv"
    path.write_text("一つ目\t1\n二つ目\t1,200\n", encoding="utf-8")
    task = get_task("gsm8k_ja")
    both = task.samples(Split.SEARCH, data=path)
    assert both == (
        Sample(id="0001", question="一つ目", references=("1",), origin="gsm8k-test/250"),
        Sample(id="0002", question="二つ目", references=("1200",), origin="gsm8k-test/251"),
    )
    assert task.samples(Split.SEARCH, data=path, limit=1) == both[:1]
    assert task.samples(Split.SEARCH, data=path, limit=9) == both
    with pytest.raises(TaskError, match="at least 1"):
        task.samples(Split.SEARCH, data=path, limit=0)


def test_json_lines_and_parquet_hold_the_hub_columns(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    # U+2028 within a text ends no line.
    row = {"question": "一行目\u2028二行目", "answer": "三", "answer_number": 3}
    lines = write_lines(tmp_path / "a.jsonl", row)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    expected = (Sample(id="0001", question="一行目\u2028二行目", references=("3",), origin="gsm8k-test/250"),)
    assert get_task("gsm8k_ja").samples(Split.SEARCH, data=lines) == expected
    assert get_task("gsm8k_ja").samples(Split.SEARCH, data=tmp_path / "b.parquet") == expected


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="no such file or folder"):
        get_task("emoji_ja").samples(Split.SEARCH, data=tmp_path / "absent.jsonl")
    monkeypatch.setattr("evovlm.tasks.published.asset_path", lambda name: tmp_path / name)
    with pytest.raises(TaskError, match=r"word_problems_ja\.search\.jsonl.*make zoo"):
        get_task("word_problems_ja").samples(Split.SEARCH)


@pytest.mark.parametrize("language", ["ja", "en"])
def test_word_problems_are_asked_for_their_number(tmp_path: Path, language: str) -> None:
    row = {"id": "search-000", "question": "6+7?", "answer": "6+7=13", "number": 13, "tags": ["steps-1"]}
    task = get_task(f"word_problems_{language}")
    write_lines(tmp_path / f"word_problems_{language}.search.jsonl", row)
    write_lines(tmp_path / f"word_problems_{language}.report.jsonl", {**row, "id": "report-000"})
    (sample,) = task.samples(Split.SEARCH, data=tmp_path)
    assert sample == Sample(id="search-000", question="6+7?", references=("13",), tags=frozenset({"steps-1"}))
    assert task.samples(Split.REPORT, data=tmp_path)[0].id == "report-000"
    assert task.ask(sample).text.split(": ", 1)[1].startswith("6+7?\n")


def test_two_samples_with_one_id_are_refused(tmp_path: Path) -> None:
    row = {"id": "1", "question": "6+7?", "number": 13}
    with pytest.raises(TaskError, match="two samples have the id '1'"):
        get_task("word_problems_ja").samples(Split.SEARCH, data=write_lines(tmp_path / "a.jsonl", row, row))


def test_emoji_questions_draw_their_picture(tmp_path: Path) -> None:
    row = {"id": "emoji-search-0000", "question": "何?", "answer": "天狗", "picture": PICTURE, "tags": ["culture"]}
    (sample,) = get_task("emoji_ja").samples(Split.SEARCH, data=write_lines(tmp_path / "a.jsonl", row))
    assert (sample.references, sample.tags) == (("天狗",), frozenset({"culture"}))
    (picture,) = sample.images
    assert isinstance(picture, PictureSpec)
    assert picture.load().size == (64, 64)
    broken = write_lines(tmp_path / "b.jsonl", {**row, "picture": "👺"})
    with pytest.raises(TaskError, match="'picture' should be"):
        get_task("emoji_ja").samples(Split.SEARCH, data=broken)


def red_square(path: Path, *, red: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path)
    return path


def test_an_image_folder_asks_the_first_question_of_each_picture(tmp_path: Path) -> None:
    for number, red in enumerate((10, 200)):
        red_square(tmp_path / "train" / f"{number}.png", red=red)
    qas = [{"qa_id": 1, "question": "何色?", "answer": "赤"}, {"qa_id": 2, "question": "形は?", "answer": "四角"}]
    rows = [{"file_name": f"{number}.png", "image_id": 70 + number, "qas": qas} for number in range(2)]
    write_lines(tmp_path / "train" / "metadata.jsonl", *rows)
    for place in (tmp_path, tmp_path / "train"):
        samples = get_task("ja_vg_vqa").samples(Split.SEARCH, data=place)
        assert [(s.id, s.question, s.references) for s in samples] == [
            ("70", "何色?", ("赤",)),
            ("71", "何色?", ("赤",)),
        ]
    (first,), (second,) = (sample.images for sample in samples)
    assert first.key != second.key
    assert second.load().getpixel((0, 0)) == (200, 0, 0)


def test_pictures_named_in_json_lines_are_found_beside_the_file(tmp_path: Path) -> None:
    red_square(tmp_path / "pictures" / "a.png", red=9)
    path = write_lines(tmp_path / "bench.jsonl", {"image": "pictures/a.png", "question": "何?", "answer": "赤"})
    (sample,) = get_task("ja_vlm_bench").samples(Split.REPORT, data=path)
    assert sample.images[0].load().getpixel((0, 0)) == (9, 0, 0)


def test_what_datasets_saved_to_disk_is_read(tmp_path: Path) -> None:
    import datasets

    picture = red_square(tmp_path / "a.png", red=77)
    table = datasets.Dataset.from_dict({"image": [str(picture)], "question": ["何?"], "answer": ["赤"]}).cast_column(
        "image", datasets.Image()
    )
    table.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "both"))
    for place in (tmp_path / "saved", tmp_path / "both"):
        (sample,) = get_task("ja_vlm_bench").samples(Split.REPORT, data=place)
        assert (sample.question, sample.references) == ("何?", ("赤",))
        assert sample.images[0].load().getpixel((0, 0)) == (77, 0, 0)
    with pytest.raises(TaskError, match="several splits"):
        get_task("emoji_ja").samples(Split.REPORT, data=tmp_path / "both")


def test_the_command_lists_every_task_with_sizes_and_sources() -> None:
    app = Typer()
    app.command()(tasks_command)
    table = CliRunner().invoke(app, [], env={"COLUMNS": "200"})
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(app, ["--json"]).stdout)}
    assert table.exit_code == 0
    assert list(rows) == list(TASKS)
    assert all(name in table.stdout for name in TASKS)
    assert "Trained on the data of ja_vg_vqa, ja_vg_vqa_all, stair_captions" in table.stdout
    assert rows["word_problems_ja"]["samples"] == {
        split.value: len(get_task("word_problems_ja").samples(split)) for split in (Split.SEARCH, Split.REPORT)
    }
    assert rows["gsm8k"]["samples"] == {"search": 7473, "report": 1319}
    assert rows["jdocqa"]["samples"] == {"report": None}
    assert (rows["gsm8k"]["hub_id"], rows["gsm8k"]["licence"]) == ("openai/gsm8k", "MIT")
    assert rows["emoji_ja"]["cached"] is True
    assert rows["stair_captions"]["contaminated"]
    assert rows["mgsm_ja"]["decodings"] == ["search"]
