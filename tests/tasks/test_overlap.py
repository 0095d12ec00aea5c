"""What a search would see of a report: the same origins, words or pictures, and nothing else."""

import io
from pathlib import Path

import pytest
from PIL import Image

from evovlm.tasks.catalogue import get_task
from evovlm.tasks.overlap import MOST_PICTURES, Overlap, are_few, normalised, overlaps
from evovlm.tasks.pictures import EncodedPicture, PictureFile
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.task import Task
from tests.tasks.public_data import public_file


def asked(id: str, question: str, *, origin: str | None = None, picture: int | None = None) -> Sample:
    images = () if picture is None else (EncodedPicture(content=png(picture), where=id),)
    return Sample(id=id, question=question, references=("1",), origin=origin, images=images)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_same_words_are_found_through_widths_spaces_and_punctuation() -> None:
    search = [asked("s1", "リンゴは3個。"), asked("s2", "What is 3 + 4?")]
    report = [asked("r1", "ﾘﾝｺﾞは　３個"), asked("r2", "what is 3+4"), asked("r3", "what is 3+5")]
    assert overlaps(search, report) == (Overlap(kind="questions", count=2, examples=(("s1", "r1"), ("s2", "r2"))),)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("3+4", "3×4", False), ("3-4", "34", True), ("12", "1 2", True), ("？", "！", False), ("Ａ", "a", True)],
)
def test_what_counts_as_the_same_words(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same


def test_the_same_origin_is_found_in_another_language() -> None:
    search = [asked(f"s{n}", f"問い{n}", origin=f"gsm8k-test/{n}") for n in range(5)]
    report = [asked(f"r{n}", f"question {n}", origin=f"gsm8k-test/{n}") for n in range(1, 9)]
    (found,) = overlaps(search, report)
    assert found == Overlap(kind="origins", count=4, examples=(("s1", "r1"), ("s2", "r2"), ("s3", "r3")))
    message = found.message(search="gsm8k_ja", report="gsm8k")
    assert "a search on gsm8k_ja sees 4 of the report samples of gsm8k" in message
    assert "s1 = r1, s2 = r2, s3 = r3, ..." in message


def test_the_same_picture_is_found_and_the_same_question_about_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(7))
    search = [Sample(id="s", question="何?", references=("1",), images=(PictureFile(path=tmp_path / "a.png"),))]
    assert overlaps(search, [asked("r", "何?", picture=8)]) == ()
    (found,) = overlaps(search, [asked("r", "誰?", picture=7)])
    assert found == Overlap(kind="pictures", count=1, examples=(("s", "r"),))


def test_a_sample_counts_once_and_nothing_shared_is_nothing_found() -> None:
    search = [asked("s1", "何?"), asked("s2", "何?")]
    assert overlaps(search, [asked("r", "何?")])[0].examples == (("s1", "r"),)
    assert overlaps(search, []) == overlaps([], search) == overlaps(search, [asked("r", "誰?")]) == ()


def test_too_many_pictures_are_not_compared() -> None:
    many = [asked(str(n), "何?", picture=1) for n in range(2)]
    assert are_few(many)
    assert not are_few(many * (MOST_PICTURES // 2 + 1))
    assert overlaps(many * (MOST_PICTURES // 2 + 1), many) == ()


@pytest.mark.parametrize("name", ["word_problems_ja", "word_problems_en", "emoji_ja", "emoji_en"])
def test_the_embedded_splits_share_nothing(name: str) -> None:
    task: Task = get_task(name)
    assert overlaps(task.samples(Split.SEARCH), task.samples(Split.REPORT)) == ()


def test_gsm8k_s_test_holds_mgsm_and_its_train_does_not() -> None:
    mgsm = {name: get_task(name).samples(Split.REPORT, data=public_file("mgsm")) for name in ("mgsm_ja", "mgsm_en")}
    gsm8k = get_task("gsm8k")
    train = gsm8k.samples(Split.SEARCH, data=public_file("gsm8k"))
    test = gsm8k.samples(Split.REPORT, data=public_file("gsm8k"))
    assert [(found.kind, found.count) for found in overlaps(mgsm["mgsm_ja"], test)] == [("origins", 250)]
    by_kind = {found.kind: found.count for found in overlaps(mgsm["mgsm_en"], test)}
    assert by_kind["origins"] == 250
    assert by_kind["questions"] >= 240
    for samples in mgsm.values():
        assert overlaps(train, samples) == ()
