import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import TaskError
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.emoji_pictures import (
    NOTO_FONT_VARIABLE,
    PICTURE_SIDE_PX,
    PictureSpec,
    PlacedEmoji,
    draw,
    from_fields,
    from_json,
    noto_font,
    to_fields,
    to_json,
)
from evovlm.tasks.published import embedded_file
from evovlm.tasks.task import Split

GOBLIN = PlacedEmoji(emoji="👺", x=20.0, y=32.0, size=30.0, rotation=10.0)
SAKE = PlacedEmoji(emoji="🍶", x=46.0, y=30.0, size=30.0, rotation=-10.0)
SHRINE = PlacedEmoji(emoji="⛩\ufe0f", x=32.0, y=32.0, size=40.0, rotation=0.0)


def one(
    placed: PlacedEmoji = GOBLIN, *, artist: str = "openmoji", background: tuple[str, ...] = ("#ffffff",)
) -> PictureSpec:
    return PictureSpec(objects=(placed,), artist=artist, background=background)  # type: ignore[arg-type]


def pixels(spec: PictureSpec) -> np.ndarray:
    return np.asarray(draw(spec)).astype(int)


def test_a_picture_is_rgb_and_64_pixels_wide_and_high() -> None:
    picture = draw(one())
    assert (picture.mode, picture.size) == ("RGB", (PICTURE_SIDE_PX, PICTURE_SIDE_PX))


def test_the_same_specification_gives_the_same_pixels() -> None:
    assert draw(one()).tobytes() == draw(from_json(to_json(one()))).tobytes()


def test_a_goblin_is_mostly_red_at_its_position_and_only_there() -> None:
    image = pixels(one())
    red = (image[:, :, 0] > 150) & (image[:, :, 1] < 120)
    assert red[22:42, 10:30].mean() > 0.3
    assert not red[:, 45:].any()


def test_two_objects_are_both_drawn() -> None:
    both = PictureSpec(objects=(GOBLIN, SAKE), artist="openmoji", background=("#3060ff",))
    alone = one(background=("#3060ff",))
    assert (pixels(both)[:, 40:] != pixels(alone)[:, 40:]).any()
    assert (pixels(both)[:, :30] == pixels(alone)[:, :30]).all()


def test_rotation_turns_to_the_left_and_a_whole_turn_changes_nothing() -> None:
    def turned(degrees: float) -> PictureSpec:
        return one(PlacedEmoji(emoji="🔑", x=32.0, y=32.0, size=50.0, rotation=degrees))

    assert (pixels(turned(360.0)) == pixels(turned(0.0))).all()
    assert (pixels(turned(90.0)) != pixels(turned(0.0))).any()


def test_a_gradient_runs_from_the_first_colour_at_the_top_to_the_second_at_the_bottom() -> None:
    image = pixels(one(background=("#ff0000", "#0000ff")))
    assert tuple(image[0, 63]) == (255, 0, 0)
    assert tuple(image[63, 63]) == (0, 0, 255)
    assert 100 < image[32, 63, 0] < 150


def test_an_emoji_with_a_variation_selector_is_drawn_as_without_it() -> None:
    bare = PlacedEmoji(emoji="⛩", x=32.0, y=32.0, size=40.0, rotation=0.0)
    assert (pixels(one(SHRINE)) == pixels(one(bare))).all()


def test_an_emoji_that_openmoji_lacks_is_named_in_the_error() -> None:
    with pytest.raises(TaskError, match="OpenMoji has no drawing of 'Q'"):
        draw(one(PlacedEmoji(emoji="Q", x=32.0, y=32.0, size=40.0, rotation=0.0)))


@pytest.mark.skipif(noto_font() is None, reason="Noto Color Emoji is not installed")
def test_noto_draws_the_same_thing_another_way() -> None:
    noto, openmoji = pixels(one(artist="noto")), pixels(one())
    assert (noto != openmoji).any()
    assert ((noto[:, :, 0] > 150) & (noto[:, :, 1] < 120))[22:42, 10:30].mean() > 0.2


def test_without_the_font_a_picture_by_noto_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(NOTO_FONT_VARIABLE, str(tmp_path / "missing.ttf"))
    assert noto_font() is None
    # Another emoji than any other test draws, for drawn ones are remembered.
    with pytest.raises(TaskError, match="apt-get install fonts-noto-color-emoji"):
        draw(one(PlacedEmoji(emoji="🪇", x=32.0, y=32.0, size=40.0, rotation=0.0), artist="noto"))


def test_without_the_font_pictures_by_noto_are_left_out_of_their_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = get_task("emoji_ja")
    font = noto_font()
    if font is not None:
        assert (len(task.samples(Split.REPORT)), task.read(Split.REPORT).absent) == (400, {})
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    for path, reason in ((tmp_path / "missing.ttf", "is not installed"), (broken, "is not the font")):
        monkeypatch.setenv(NOTO_FONT_VARIABLE, str(path))
        found = task.read(Split.REPORT)
        assert all("noto" not in sample.tags for sample in found.samples)
        assert len(found.samples) == 300
        ((said, n),) = found.absent.items()
        assert n == 100
        assert reason in said
        assert len(task.samples(Split.REPORT, limit=350)) == 300
        assert task.read(Split.SEARCH).absent == {}


def test_a_task_of_which_no_sample_can_be_drawn_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(NOTO_FONT_VARIABLE, str(tmp_path / "missing.ttf"))
    rows = embedded_file("emoji_ja.report").read_text(encoding="utf-8").splitlines()
    data = tmp_path / "noto.jsonl"
    data.write_text("\n".join(row for row in rows if '"artist": "noto"' in row), encoding="utf-8")
    with pytest.raises(TaskError, match=r"emoji_ja has no samples on this machine: .* apt-get install"):
        get_task("emoji_ja").samples(Split.REPORT, data=data)


@given(
    objects=st.lists(
        st.builds(
            PlacedEmoji,
            emoji=st.sampled_from(["👺", "🍶", "⛩\ufe0f"]),
            x=st.floats(0, 64),
            y=st.floats(0, 64),
            size=st.floats(8, 64),
            rotation=st.floats(-180, 180),
        ),
        min_size=1,
        max_size=2,
    ),
    artist=st.sampled_from(["openmoji", "noto"]),
    background=st.lists(st.sampled_from(["#000000", "#a5dcf7"]), min_size=1, max_size=2),
)
def test_a_specification_survives_json(objects: list[PlacedEmoji], artist: str, background: list[str]) -> None:
    spec = PictureSpec(objects=tuple(objects), artist=artist, background=tuple(background))  # type: ignore[arg-type]
    assert from_json(to_json(spec)) == spec
    assert from_json(to_json(spec)).key == spec.key


def test_keys_differ_where_pictures_do() -> None:
    assert len({one().key, one(SAKE).key, one(artist="noto").key, one(background=("#fffffe",)).key}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"artist": "picasso"},
        {"background": []},
        {"background": ["not a colour"]},
        {"background": ["#000", "#111", "#222"]},
        {"objects": []},
        {"objects": [{"emoji": "👺"}]},
        {"objects": [{"emoji": "👺", "x": "left", "y": 1, "size": 2, "rotation": 0}]},
        {"objects": None},
    ],
)
def test_a_broken_specification_is_an_error_that_says_what_it_needs(change: dict[str, object]) -> None:
    with pytest.raises(TaskError, match="needs"):
        from_fields(to_fields(one()) | change)


def test_a_specification_that_is_not_json_or_lacks_a_field_is_an_error() -> None:
    with pytest.raises(TaskError, match="not JSON"):
        from_json("{")
    with pytest.raises(TaskError, match="KeyError"):
        from_json(json.dumps({"artist": "openmoji"}))
