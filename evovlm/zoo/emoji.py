"""Draw random contents of pictures for training, and write the files of the tasks `emoji_ja` and `emoji_en`.

One row of a task file:

    {"id": "emoji-report-0007", "question": "何が写っていますか?", "answer": "天狗", "tags": ["culture", "one"],
     "picture": {"artist": "openmoji", "background": ["#cfe3ff"], "objects": [...]}}

Both tasks ask about the same pictures, each in its language. Training draws from other random streams than the splits
do, and still leaves out any picture of a split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageColor

from evovlm.files import make_folder, write_file
from evovlm.seeding import generator
from evovlm.tasks.emoji_pictures import PICTURE_SIDE_PX, Artist, PictureSpec, PlacedEmoji, to_fields
from evovlm.zoo.concepts import (
    COLOUR_QUESTIONS,
    COLOURS,
    LANGUAGES,
    NAME_QUESTIONS,
    Colour,
    Concept,
    Language,
    all_concepts,
    name_answer,
)

_COLOUR_JITTER = 16
_SPLIT_SEED = 20240319


class Scene(NamedTuple):
    """A picture with its content: the concepts from left to right, and the background colour if it has only one."""

    spec: PictureSpec
    shown: tuple[Concept, ...]
    colour: Colour | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """The number of pictures of each sort in a split, for one artist.

    `sweeps` pictures of every concept, `culture` more of the Japanese ones, `pairs` of two, `colours` background
    questions.
    """

    sweeps: int
    single: int
    culture: int
    pairs: int
    colours: int


PLANS: dict[str, dict[Artist, SplitPlan]] = {
    "search": {"openmoji": SplitPlan(sweeps=0, single=150, culture=0, pairs=66, colours=24)},
    "report": {
        "openmoji": SplitPlan(sweeps=1, single=0, culture=44, pairs=74, colours=30),
        "noto": SplitPlan(sweeps=0, single=50, culture=24, pairs=18, colours=8),
    },
}


def random_scene(
    rng: np.random.Generator, shown: Sequence[Concept], *, artist: Artist = "openmoji", plain: bool = False
) -> Scene:
    """Draw a picture of one or two concepts at random: background, sizes, rotations, positions.

    `plain` asks for a background of one colour; otherwise four in ten are gradients.
    """
    first = _pick(rng, COLOURS)
    gradient = not plain and rng.random() < 0.4
    background = tuple(_jittered(rng, colour) for colour in ([first, _pick(rng, COLOURS)] if gradient else [first]))
    place = _alone if len(shown) == 1 else _beside
    objects = tuple(place(rng, concept, index) for index, concept in enumerate(shown))
    spec = PictureSpec(objects=objects, artist=artist, background=background)
    return Scene(spec, tuple(shown), None if gradient else first)


def training_scenes(rng: np.random.Generator, count: int, *, pairs: float = 0.4) -> Iterator[Scene]:
    """Yield `count` pictures by OpenMoji for training, none of them in a split; `pairs` is the share with two objects.

    Every concept comes up equally often: whole shuffled rounds of them are dealt out.
    """
    withheld = split_keys()
    deck: list[Concept] = []
    while count:
        wanted = 2 if rng.random() < pairs else 1
        if len(deck) < wanted:
            deck.extend(all_concepts()[index] for index in rng.permutation(len(all_concepts())))
        shown = [deck.pop() for _ in range(wanted)]
        scene = random_scene(rng, shown)
        if scene.spec.key not in withheld:
            count -= 1
            yield scene


def split_rows(split: str, *, language: Language) -> list[dict[str, object]]:
    """Return the rows of one split of `emoji_ja` or `emoji_en`, always the same."""
    rows: list[dict[str, object]] = []
    for scene, about_colour, question in _split_scenes(split):
        questions = COLOUR_QUESTIONS if about_colour else NAME_QUESTIONS
        tags = [scene.spec.artist, "colour" if about_colour else ("one", "two")[len(scene.shown) - 1]]
        if not about_colour and all(concept.culture for concept in scene.shown):
            tags.append("culture")
        named = scene.colour.names[language] if about_colour and scene.colour else None
        rows.append(
            {
                "id": f"emoji-{split}-{len(rows):04d}",
                "question": questions[language][question % len(questions[language])],
                "answer": named or name_answer(scene.shown, language=language),
                "tags": sorted(tags),
                "picture": to_fields(scene.spec),
            }
        )
    return rows


def write_tasks(folder: Path) -> list[Path]:
    """Write `emoji_{ja,en}.{search,report}.jsonl` into `folder` and return the files."""
    make_folder(folder)
    written = []
    for language in LANGUAGES:
        for split in PLANS:
            path = folder / f"emoji_{language}.{split}.jsonl"
            lines = [json.dumps(row, ensure_ascii=False) for row in split_rows(split, language=language)]
            write_file(path, "\n".join(lines) + "\n")
            written.append(path)
    return written


@lru_cache(maxsize=1)
def split_keys() -> frozenset[str]:
    """Return the keys of all pictures in the splits."""
    return frozenset(scene.spec.key for split in PLANS for scene, _, _ in _split_scenes(split))


class _SceneQuestion(NamedTuple):
    scene: Scene
    about_colour: bool
    question: int


def _split_scenes(split: str) -> Iterator[_SceneQuestion]:
    for artist, plan in PLANS[split].items():
        rng = generator("emoji", split, artist, _SPLIT_SEED)
        concepts = all_concepts()
        culture = [concept for concept in concepts if concept.culture]
        shown: list[list[Concept]] = [[concept] for concept in concepts for _ in range(plan.sweeps)]
        shown += [[concept] for concept in _drawn(rng, concepts, plan.single)]
        shown += [[concept] for concept in _drawn(rng, culture, plan.culture)]
        shown += [_drawn(rng, culture if rng.random() < 0.35 else concepts, 2) for _ in range(plan.pairs)]
        for named in shown:
            yield _SceneQuestion(random_scene(rng, named, artist=artist), False, int(rng.integers(12)))
        for named in ([concept] for concept in _drawn(rng, concepts, plan.colours)):
            yield _SceneQuestion(random_scene(rng, named, artist=artist, plain=True), True, int(rng.integers(12)))


def _drawn(rng: np.random.Generator, concepts: Sequence[Concept], count: int) -> list[Concept]:
    """Draw without replacement; start another round when all have been drawn."""
    order = [index for _ in range(count // len(concepts) + 1) for index in rng.permutation(len(concepts))]
    return [concepts[index] for index in order[:count]]


def _pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _jittered(rng: np.random.Generator, colour: Colour) -> str:
    channels = np.array(ImageColor.getrgb(colour.rgb)[:3]) + rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, size=3)
    return "#" + "".join(f"{int(channel):02x}" for channel in np.clip(channels, 0, 255))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 1)


def _alone(rng: np.random.Generator, concept: Concept, _index: int) -> PlacedEmoji:
    size = _between(rng, 42, 60)
    slack = (PICTURE_SIDE_PX - size) / 2 + 2
    middle = PICTURE_SIDE_PX / 2
    return PlacedEmoji(
        emoji=concept.emoji,
        x=_between(rng, middle - slack, middle + slack),
        y=_between(rng, middle - slack, middle + slack),
        size=size,
        rotation=_between(rng, -18, 18),
    )


def _beside(rng: np.random.Generator, concept: Concept, index: int) -> PlacedEmoji:
    middle = PICTURE_SIDE_PX * (0.25 + 0.5 * index)
    return PlacedEmoji(
        emoji=concept.emoji,
        x=_between(rng, middle - 2, middle + 2),
        y=_between(rng, 22, 42),
        size=_between(rng, 28, 36),
        rotation=_between(rng, -14, 14),
    )
