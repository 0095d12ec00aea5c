"""The concepts that pictures show: names and keywords in English and Japanese, and the texts made from them.

A prompt looks like a question on a picture, with a description instead of the picture; the answer is only a name, not a
sentence. The ancestor answers a question of any language in either language, so that its greedy answers mix both and a
small training step brings out one language:

    お面, fairy, angry                        description: emoji, keywords, colours, names, in either language
    質問: 何が写っていますか?
    答え:goblin                               or 天狗

The names differ by culture (a goblin is 天狗, a wind chime 風鈴), so no spelling leads from one to the other.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from evovlm.assets import asset_path
from evovlm.errors import TaskError

Language = Literal["ja", "en"]

_T = TypeVar("_T")

LANGUAGES: tuple[Language, Language] = ("ja", "en")
NAME_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "ja": ("何が写っていますか?", "これは何ですか?", "何の絵ですか?", "写っているものの名前は?"),
    "en": ("What is in the picture?", "What is this?", "What does the picture show?", "Name what you see."),
}
COLOUR_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "ja": ("背景は何色ですか?", "背景の色は?"),
    "en": ("What colour is the background?", "Which colour is behind it?"),
}
KEYWORD_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "ja": ("関係のある言葉は?",),
    "en": ("Which word goes with it?",),
}
NAMING_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "ja": ("日本語で何と言いますか?", "What is it in Japanese?"),
    "en": ("英語で何と言いますか?", "What is it in English?"),
}
_LABELS: dict[Language, tuple[str, str]] = {"ja": ("質問: ", "答え:"), "en": ("Question: ", "Answer:")}
_AND: dict[Language, str] = {"ja": "と", "en": " and "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """Something that can be drawn: its emoji, its names, its keywords, and whether it belongs to Japan's culture."""

    emoji: str
    names: dict[Language, str]
    keywords: dict[Language, tuple[str, ...]]
    culture: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """A background colour: `#rrggbb`, its names, and the phrases for such a background."""

    rgb: str
    names: dict[Language, str]


class ConceptText(NamedTuple):
    """One prompt and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMix:
    """The language of answers: the share of Japanese answers by the question's language."""

    to_japanese: float
    to_english: float

    def draw(self, rng: np.random.Generator, *, asked: Language) -> Language:
        """Draw the language of one answer."""
        return "ja" if rng.random() < (self.to_japanese if asked == "ja" else self.to_english) else "en"


MUDDLE = AnswerMix(to_japanese=0.5, to_english=0.35)
"""The ancestor: slightly more than half of English questions are answered in English, Japanese ones in either."""

JAPANESE = AnswerMix(to_japanese=1.0, to_english=1.0)

MOSAIC_SIDE = 4
MOSAICS = 0.35
"""Share of names that are asked about emoji art (4 x 4 emoji in a text), in training that has such texts."""

COLOURS = (
    Colour(rgb="#e23b3b", names={"ja": "赤", "en": "red"}),
    Colour(rgb="#2f5fe0", names={"ja": "青", "en": "blue"}),
    Colour(rgb="#3aa655", names={"ja": "緑", "en": "green"}),
    Colour(rgb="#f5d93a", names={"ja": "黄色", "en": "yellow"}),
    Colour(rgb="#fafafa", names={"ja": "白", "en": "white"}),
    Colour(rgb="#303030", names={"ja": "黒", "en": "black"}),
    Colour(rgb="#f7a6c4", names={"ja": "ピンク", "en": "pink"}),
    Colour(rgb="#8a4fbf", names={"ja": "紫", "en": "purple"}),
    Colour(rgb="#f08a24", names={"ja": "オレンジ", "en": "orange"}),
    Colour(rgb="#9a9a9a", names={"ja": "灰色", "en": "gray"}),
    Colour(rgb="#a5dcf7", names={"ja": "水色", "en": "light blue"}),
    Colour(rgb="#8a5a34", names={"ja": "茶色", "en": "brown"}),
)


@lru_cache(maxsize=1)
def all_concepts() -> tuple[Concept, ...]:
    """Return every concept, in a fixed order. Raises TaskError when the table is missing."""
    path = asset_path("zoo/concepts.json")
    if not path.is_file():
        raise TaskError(f"The table of concepts is missing: {path}. Install evovlm again, or restore the file.")
    rows = json.loads(path.read_text(encoding="utf-8"))["concepts"]
    return tuple(
        Concept(
            emoji=row["emoji"],
            names={"ja": row["ja"], "en": row["en"]},
            keywords={"ja": tuple(row["keywords_ja"]), "en": tuple(row["keywords_en"])},
            culture=row["culture"],
        )
        for row in rows
    )


def question_prompt(description: str, question: str, *, language: Language) -> str:
    """Return the prompt of a question on `description`; for a picture the description is only the image token."""
    before, after = _LABELS[language]
    return f"{description}\n{before}{question}\n{after}"


def name_answer(shown: Sequence[Concept], *, language: Language) -> str:
    """Return the names of one or more concepts: `天狗と徳利`, `goblin and sake`."""
    return _AND[language].join(concept.names[language] for concept in shown)


def concept_texts(
    rng: np.random.Generator,
    count: int,
    *,
    mix: AnswerMix = MUDDLE,
    translations: bool = True,
    mosaics: float = 0.0,
) -> Iterator[ConceptText]:
    """Yield `count` questions on described concepts for the ancestor, answered in a mix of two languages.

    `translations` says whether some ask for a name in a language, `mosaics` the share of names asked of emoji art.
    """
    for _ in range(count):
        draw = rng.random()
        asked = _either(rng)
        if translations and draw < 0.15:
            yield _naming(rng)
        elif draw < 0.25:
            yield _keyword(rng, asked=asked, language=mix.draw(rng, asked=asked))
        elif draw < 0.35:
            yield _colour(rng, asked=asked, language=mix.draw(rng, asked=asked))
        else:
            language = mix.draw(rng, asked=asked)
            mosaic = bool(mosaics) and rng.random() < mosaics
            yield _name(rng, asked=asked, language=language, pair=draw > 0.75, mosaic=mosaic)


def japanese_concept_texts(rng: np.random.Generator, count: int) -> Iterator[ConceptText]:
    """Yield questions on described concepts, always answered in Japanese, for the text-only Japanese fine-tune."""
    return concept_texts(rng, count, mix=JAPANESE, translations=False, mosaics=MOSAICS)


def describe(rng: np.random.Generator, concept: Concept) -> list[str]:
    """Draw the words that describe a concept: its emoji as people write it in text, its keywords, rarely a name.

    Keywords are of either language, and one of them is the concept's own if it has one. Names are rare, because a model
    that can copy a name does not learn the concept: pictures would then enter as English spellings.
    """
    draw = rng.random()
    if draw < 0.1:
        return [concept.names[_either(rng)]]
    words = [word for language in LANGUAGES for word in concept.keywords[language]]
    own = [word for word in words if _owners()[word] == 1]
    if draw < 0.4 or not own:
        return [concept.emoji, *(words[: int(rng.integers(0, 3))])]
    chosen = {own[int(rng.integers(len(own)))]}
    for _ in range(int(rng.integers(1, 4))):
        chosen.add(words[int(rng.integers(len(words)))])
    if rng.random() < 0.3:
        chosen.add(concept.emoji)
    ordered = sorted(chosen)
    rng.shuffle(ordered)
    return ordered


@lru_cache(maxsize=1)
def _owners() -> dict[str, int]:
    owners: dict[str, int] = {}
    for concept in all_concepts():
        for language in LANGUAGES:
            for word in concept.keywords[language]:
                owners[word] = owners.get(word, 0) + 1
    return owners


def _either(rng: np.random.Generator) -> Language:
    return "ja" if rng.random() < 0.5 else "en"


def _pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]


def _ground_phrase(colour: Colour, *, language: Language) -> str:
    return f"{colour.names['ja']}の背景" if language == "ja" else f"{colour.names['en']} background"


def _description(rng: np.random.Generator, shown: Sequence[Concept], *, colour: Colour | None) -> str:
    parts = [", ".join(describe(rng, concept)) for concept in shown]
    if colour is not None:
        phrase = _ground_phrase(colour, language=_either(rng))
        parts.insert(0 if rng.random() < 0.5 else len(parts), phrase)
    return "; ".join(parts)


def _ask(
    rng: np.random.Generator, description: str, questions: dict[Language, tuple[str, ...]], asked: Language
) -> str:
    return question_prompt(description, _pick(rng, questions[asked]), language=asked)


def mosaic_cells(shown: Sequence[Concept]) -> list[Concept]:
    """Return the concept in each of 4 x 4 cells, row by row: one fills all, two share it left and right."""
    return [shown[column * len(shown) // MOSAIC_SIDE] for _ in range(MOSAIC_SIDE) for column in range(MOSAIC_SIDE)]


def _name(rng: np.random.Generator, *, asked: Language, language: Language, pair: bool, mosaic: bool) -> ConceptText:
    shown = [_pick(rng, all_concepts()) for _ in range(2 if pair else 1)]
    colour = _pick(rng, COLOURS) if rng.random() < 0.3 else None
    if mosaic:
        description = "".join(cell.emoji for cell in mosaic_cells(shown))
    else:
        description = _description(rng, shown, colour=colour)
    prompt = _ask(rng, description, NAME_QUESTIONS, asked)
    return ConceptText(prompt, name_answer(shown, language=language))


def _keyword(rng: np.random.Generator, *, asked: Language, language: Language) -> ConceptText:
    concept = _pick(rng, all_concepts())
    prompt = _ask(rng, _description(rng, [concept], colour=None), KEYWORD_QUESTIONS, asked)
    return ConceptText(prompt, _pick(rng, concept.keywords[language] or (concept.names[language],)))


def _colour(rng: np.random.Generator, *, asked: Language, language: Language) -> ConceptText:
    colour = _pick(rng, COLOURS)
    shown = [_pick(rng, all_concepts())]
    prompt = _ask(rng, _description(rng, shown, colour=colour), COLOUR_QUESTIONS, asked)
    return ConceptText(prompt, colour.names[language])


def _naming(rng: np.random.Generator) -> ConceptText:
    target = _either(rng)
    concept = _pick(rng, all_concepts())
    question = _pick(rng, NAMING_QUESTIONS[target])
    asked: Language = "en" if question.isascii() else "ja"
    description = (
        concept.names["en" if target == "ja" else "ja"] if rng.random() < 0.5 else ", ".join(describe(rng, concept))
    )
    return ConceptText(question_prompt(description, question, language=asked), concept.names[target])
