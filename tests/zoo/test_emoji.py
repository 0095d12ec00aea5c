import json
from pathlib import Path

import numpy as np
import pytest

from evovlm.tasks.emoji_pictures import draw, from_fields
from evovlm.zoo.concepts import all_concepts
from evovlm.zoo.emoji import PLANS, random_scene, split_keys, split_rows, training_scenes, write_tasks

SPLITS = list(PLANS)


def keys(split: str) -> list[str]:
    return [from_fields(row["picture"]).key for row in split_rows(split, language="ja")]  # type: ignore[arg-type]


def test_no_picture_occurs_twice_in_the_splits() -> None:
    every = [key for split in SPLITS for key in keys(split)]
    assert len(set(every)) == len(every)
    assert set(every) == split_keys()


def test_training_leaves_out_every_picture_of_a_split() -> None:
    rng = np.random.default_rng(0)
    assert not {scene.spec.key for scene in training_scenes(rng, 500)} & split_keys()


def test_training_skips_a_picture_of_a_split_when_it_draws_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [scene.spec.key for scene in training_scenes(np.random.default_rng(1), 20)]
    monkeypatch.setattr("evovlm.zoo.emoji.split_keys", lambda: frozenset(first[:5]))
    again = [scene.spec.key for scene in training_scenes(np.random.default_rng(1), 20)]
    assert again[:15] == first[5:]


def test_training_deals_every_concept_equally_often() -> None:
    rng = np.random.default_rng(0)
    counts = dict.fromkeys((concept.emoji for concept in all_concepts()), 0)
    for scene in training_scenes(rng, 1000):
        for concept in scene.shown:
            counts[concept.emoji] += 1
    assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("split", SPLITS)
def test_both_languages_ask_about_the_same_pictures(split: str) -> None:
    japanese, english = (split_rows(split, language=language) for language in ("ja", "en"))
    for ours, theirs in zip(japanese, english, strict=True):
        assert (ours["id"], ours["picture"], ours["tags"]) == (theirs["id"], theirs["picture"], theirs["tags"])
        assert str(theirs["answer"]).isascii()
        assert not str(ours["answer"]).isascii()


def test_the_search_split_is_large_enough_and_by_openmoji_alone() -> None:
    rows = split_rows("search", language="ja")
    assert len(rows) >= 200
    assert {row["picture"]["artist"] for row in rows} == {"openmoji"}  # type: ignore[index]


def test_the_report_split_shows_every_concept_and_holds_another_artists_pictures_apart() -> None:
    rows = split_rows("report", language="ja")
    tagged = {
        tag: [row for row in rows if tag in row["tags"]] for tag in ("openmoji", "noto", "culture", "two", "colour")
    }  # type: ignore[operator]
    assert len(tagged["openmoji"]) == 300
    assert len(tagged["noto"]) == 100
    assert min(len(tagged["culture"]), len(tagged["two"])) > 50
    answers = {row["answer"] for row in tagged["openmoji"] if "one" in row["tags"]}  # type: ignore[operator]
    assert answers == {concept.names["ja"] for concept in all_concepts()}


def test_the_files_hold_the_rows_and_every_picture_of_openmoji_can_be_drawn(tmp_path: Path) -> None:
    files = write_tasks(tmp_path)
    assert sorted(file.name for file in files) == [
        "emoji_en.report.jsonl",
        "emoji_en.search.jsonl",
        "emoji_ja.report.jsonl",
        "emoji_ja.search.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "emoji_ja.search.jsonl").read_text().splitlines()]
    assert rows == split_rows("search", language="ja")
    for row in rows[::20]:
        draw(from_fields(row["picture"]))


def test_two_objects_stand_side_by_side_and_apart() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, right = random_scene(rng, all_concepts()[:2]).spec.objects
        assert left.x + 20 < right.x


def test_a_plain_background_has_one_colour_and_its_name() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = random_scene(rng, all_concepts()[:1], plain=True)
        assert len(scene.spec.background) == 1
        assert scene.colour is not None
