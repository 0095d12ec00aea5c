"""Pictures that a search and its report share are found, changed a little or not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evovlm.evaluation.near_images import NearImages
from evovlm.models.pictures.clip import ClipModel, load_clip
from evovlm.tasks.pictures import PictureFile
from evovlm.tasks.sample import Sample
from tests.pico_clip import pico_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    """A tiny open_clip model."""
    return load_clip(str(pico_clip(tmp_path_factory.mktemp("clip") / "pico")), device="cpu")


def picture(path: Path, *, seed: int, brighter: int = 0) -> PictureFile:
    """Write a picture of random patches."""
    patches = np.random.default_rng(seed).integers(0, 200, size=(4, 4, 3), dtype=np.uint8) + np.uint8(brighter)
    Image.fromarray(patches.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    return PictureFile(path=path)


def asked(name: str, *images: PictureFile) -> Sample:
    return Sample(id=name, question="", references=("x",), images=images)


def test_the_same_pictures_are_found_nearest_first(clip: ClipModel, tmp_path: Path) -> None:
    search = [asked(f"s{n}", picture(tmp_path / f"s{n}.png", seed=n)) for n in range(6)]
    search.append(asked("text only"))
    report = [
        asked("changed", picture(tmp_path / "a.png", seed=4, brighter=2)),
        asked("copy", picture(tmp_path / "b.png", seed=1)),
        asked("new", picture(tmp_path / "c.png", seed=99)),
        asked("two", picture(tmp_path / "d.png", seed=98), picture(tmp_path / "e.png", seed=2)),
    ]
    found = NearImages(clip=clip, threshold=0.9999).compare(search, report).pairs
    pairs = [(pair.search_id, pair.report_id) for pair in found]
    assert set(pairs[:2]) == {("s1", "copy"), ("s2", "two")}
    assert ("s4", "changed") in near_pairs(search, report, clip=clip, threshold=0.99)
    assert found[0].similarity == pytest.approx(1.0, abs=1e-5)


def near_pairs(
    search: list[Sample], report: list[Sample], *, clip: ClipModel, threshold: float
) -> set[tuple[str, str]]:
    found = NearImages(clip=clip, threshold=threshold).compare(search, report)
    return {(pair.search_id, pair.report_id) for pair in found.pairs}


def test_every_pair_beyond_the_threshold_is_found(clip: ClipModel, tmp_path: Path) -> None:
    samples = [asked(f"s{n}", picture(tmp_path / f"{n}.png", seed=n)) for n in range(5)]
    rows = clip.embed_images([sample.images[0].load() for sample in samples])
    cosines = rows @ rows.T
    threshold = float(cosines.median())
    expected = {(f"s{i}", f"s{j}") for i in range(5) for j in range(5) if float(cosines[i, j]) >= threshold + 1e-5}
    found = near_pairs(samples, samples, clip=clip, threshold=threshold + 1e-5)
    assert found == expected
    assert 0 < len(found) < 25
    similarities = [pair.similarity for pair in NearImages(clip=clip, threshold=-1.0).compare(samples, samples).pairs]
    assert len(similarities) == 25
    assert similarities == sorted(similarities, reverse=True)


def test_a_picture_of_two_samples_counts_for_both(clip: ClipModel, tmp_path: Path) -> None:
    shared = picture(tmp_path / "x.png", seed=3)
    found = near_pairs(
        [asked("a", shared, shared)], [asked("b", shared), asked("c", shared)], clip=clip, threshold=0.99
    )
    assert found == {("a", "b"), ("a", "c")}
    near = NearImages(clip=clip, threshold=0.95)
    assert len(near.compare([asked("a", shared, shared)], [asked("b", shared)]).pairs) == 1


def test_without_pictures_nothing_is_near(clip: ClipModel) -> None:
    assert NearImages(clip=clip, threshold=0.95).compare([asked("a")], [asked("b")]) == ((), {}, {})


def test_a_picture_is_embedded_once(clip: ClipModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[int] = []
    embed = ClipModel.embed_images

    def counting(self: ClipModel, images: list[Image.Image]) -> object:
        embedded.append(len(images))
        return embed(self, images)

    monkeypatch.setattr(ClipModel, "embed_images", counting)
    near = NearImages(clip=clip, threshold=0.99)
    search = [asked(f"s{n}", picture(tmp_path / f"s{n}.png", seed=n)) for n in range(3)]
    first = near.compare(search, [asked("a", picture(tmp_path / "a.png", seed=1))])
    near.compare(search, [asked("b", picture(tmp_path / "b.png", seed=2))])
    assert embedded == [3, 1, 1]
    assert near.compare(search, [asked("a", PictureFile(path=tmp_path / "a.png"))]) == first
    assert embedded == [3, 1, 1]


def test_missing_pictures_are_left_out_and_named(clip: ClipModel, tmp_path: Path) -> None:
    shared, missing = picture(tmp_path / "x.png", seed=3), PictureFile(path=tmp_path / "gone.png")
    near = NearImages(clip=clip, threshold=0.99)
    found = near.compare([asked("a", shared)], [asked("b", missing, shared), asked("c", missing)])
    assert [(pair.search_id, pair.report_id) for pair in found.pairs] == [("a", "b")]
    assert found.search_left_out == {}
    assert found.report_left_out.keys() == {"b", "c"}
    assert "gone.png" in found.report_left_out["c"]
    assert near.compare([asked("a", shared)], [asked("c", missing)]).pairs == ()
    found = near.compare([asked("a", missing), asked("s", shared)], [asked("b", shared)])
    assert [(pair.search_id, pair.report_id) for pair in found.pairs] == [("s", "b")]
    assert "gone.png" in found.search_left_out["a"]
    assert found.report_left_out == {}
    assert near.compare([asked("a", missing)], [asked("b", shared)]).pairs == ()
