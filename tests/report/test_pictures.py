"""Pictures on the page."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from evovlm.evaluation.answers import TaskChoice
from evovlm.report.pictures import open_pictures
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.task import Split


def test_a_samples_picture_is_a_small_data_uri_of_that_picture() -> None:
    sample = get_task("emoji_ja").samples(Split.REPORT, limit=1)[0]
    (uri,) = open_pictures(TaskChoice(name="emoji_ja"), 400).of(sample.id)
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    assert len(uri) < 4000
    drawn, shown = sample.images[0].load(), Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    assert shown.size == drawn.size
    apart = np.asarray(drawn, dtype=np.float64) - np.asarray(shown, dtype=np.float64)
    assert np.abs(apart).mean() < 12


def test_a_text_task_has_none_and_misses_none() -> None:
    pictures = open_pictures(TaskChoice(name="word_problems_ja"), 400)
    assert pictures.of("report-000") == ()
    assert pictures.missing is None


def test_many_samples_have_smaller_pictures() -> None:
    sides = [open_pictures(TaskChoice(name="emoji_ja"), n).side_px for n in (50, 400, 600, 1000)]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1]


def test_missing_data_is_reported(tmp_path: Path) -> None:
    pictures = open_pictures(TaskChoice(name="emoji_ja", data=tmp_path / "gone.jsonl"), 10)
    assert pictures.of("emoji-report-0000") == ()
    assert pictures.missing is not None
    assert "gone.jsonl" in pictures.missing
    published = open_pictures(TaskChoice(name="ja_vlm_bench"), 10)
    assert published.missing is None or "not on this machine" in published.missing
