"""Scores by whatever a metric needs: nothing, a script, or an open_clip model."""

from pathlib import Path

import pytest
from PIL import Image

from evovlm.errors import TaskError
from evovlm.evaluation.scorer import open_scorer
from evovlm.models.pictures.clip import load_clip
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import score_answer
from evovlm.tasks.pictures import PictureFile
from evovlm.tasks.sample import Sample
from tests.pico_clip import pico_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny open_clip model."""
    return str(pico_clip(tmp_path_factory.mktemp("clip") / "pico"))


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[PictureFile, ...]:
    """A red, a green and a blue picture."""
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{colour}.png")
    return tuple(PictureFile(path=tmp_path / f"{colour}.png") for colour in ("red", "green", "blue"))


def shown(*images: PictureFile, references: tuple[str, ...] = ()) -> Sample:
    return Sample(id="1", question="何色?", references=references, images=images)


def test_a_metric_without_a_model_scores() -> None:
    scoring = Scoring(metric="accuracy", gate="script")
    sample = Sample(id="1", question="", references=("12",))
    assert open_scorer(scoring)(sample, "答えは12です") == score_answer(scoring, sample, "答えは12です")


def test_clip_score_is_two_and_a_half_times_the_cosine(clip: str, pictures: tuple[PictureFile, ...]) -> None:
    score = open_scorer(Scoring(metric="clip_score", clip_model=clip), device="cpu")
    model = load_clip(clip, device="cpu")
    texts = ["赤い", "青い四角", "a cat", "猫が二匹", "x"]
    cosines = (model.embed_images([each.load() for each in pictures]) @ model.embed_texts(texts).T).tolist()
    assert min(map(min, cosines)) < 0 < max(map(max, cosines))
    for picture, row in zip(pictures, cosines, strict=True):
        for text, cosine in zip(texts, row, strict=True):
            assert score(shown(picture), text).score == pytest.approx(min(1.0, 2.5 * max(cosine, 0.0)), abs=1e-5)


def test_several_pictures_count_alike(clip: str, pictures: tuple[PictureFile, ...]) -> None:
    score = open_scorer(Scoring(metric="clip_score", clip_model=clip), device="cpu")
    alone = [score(shown(picture), "赤い").score for picture in pictures]
    assert score(shown(*pictures), "赤い").score == pytest.approx(sum(alone) / 3, abs=1e-6)


def test_the_gate_counts_and_needs_no_reference(clip: str, pictures: tuple[PictureFile, ...]) -> None:
    gated = open_scorer(Scoring(metric="clip_score", gate="script", clip_model=clip), device="cpu")
    free = open_scorer(Scoring(metric="clip_score", clip_model=clip), device="cpu")
    best = max(pictures, key=lambda picture: free(shown(picture), "red").score)
    value = free(shown(best), "red").score
    found = gated(shown(best), "red")
    assert (found.score, found.ungated, found.japanese) == (0.0, value, False)
    # A reference that is not Japanese needs no Japanese answer, as for every metric.
    assert gated(shown(best, references=("red", "rouge")), "red").score == value


def test_without_a_picture_or_a_text_there_is_nothing_to_score(clip: str, pictures: tuple[PictureFile, ...]) -> None:
    score = open_scorer(Scoring(metric="clip_score", clip_model=clip), device="cpu")
    assert score(shown(), "赤い").unscored == "no picture"
    assert score(shown(pictures[0]), " \n").unscored == "no text"
    assert score(shown(pictures[0], references=("赤",)), "").score == 0.0


def test_what_cannot_score_is_reported_before_anything_is_scored(tmp_path: Path) -> None:
    for scoring, hint in (
        (Scoring(metric="clip_score"), "--clip-model"),
        (Scoring(metric="clip_scor"), "did you mean 'clip_score'"),
        (Scoring(metric="accuracy", extractor="rob"), "extractor"),
        (Scoring(metric="accuracy", gate="scrip"), "did you mean 'script'"),
        (Scoring(metric=f"evaluate:{tmp_path}/nothing.py"), "does not exist"),
    ):
        with pytest.raises(TaskError, match=hint):
            open_scorer(scoring, device="cpu")


def test_a_picture_that_cannot_be_read_leaves_its_sample_unscored(clip: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    score = open_scorer(Scoring(metric="clip_score", clip_model=clip), device="cpu")
    found = score(shown(PictureFile(path=tmp_path / "broken.png")), "赤い")
    assert found.score == 0
    assert "broken.png: is not a readable picture" in str(found.unscored)
