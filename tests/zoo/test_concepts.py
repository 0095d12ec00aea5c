import emoji
import numpy as np
import pytest

from evovlm.tasks.emoji_pictures import PictureSpec, PlacedEmoji, draw
from evovlm.zoo.concepts import (
    COLOURS,
    JAPANESE,
    MUDDLE,
    all_concepts,
    concept_texts,
    describe,
    japanese_concept_texts,
    mosaic_cells,
    name_answer,
    question_prompt,
)

CONCEPTS = all_concepts()


def is_japanese(text: str) -> bool:
    return any("\u3040" <= character <= "\u30ff" or "\u4e00" <= character <= "\u9fff" for character in text)


def test_there_are_over_120_concepts_and_a_quarter_of_them_are_of_japans_culture() -> None:
    assert len(CONCEPTS) >= 120
    assert sum(concept.culture for concept in CONCEPTS) >= len(CONCEPTS) // 4


def test_names_are_unique_in_each_language() -> None:
    assert len({concept.names["en"] for concept in CONCEPTS}) == len(CONCEPTS)
    assert len({concept.names["ja"] for concept in CONCEPTS}) == len(CONCEPTS)


def test_japanese_names_are_those_of_unicode_as_the_emoji_package_has_them() -> None:
    emoji.config.load_language("ja")
    for concept in CONCEPTS:
        listed = emoji.EMOJI_DATA.get(concept.emoji) or emoji.EMOJI_DATA[concept.emoji + "\ufe0f"]
        # The package writes capitals small and blanks as underscores.
        assert listed["ja"].strip(":").replace("_", " ") == concept.names["ja"].lower()


def test_names_differ_by_culture() -> None:
    names = {concept.emoji: concept.names for concept in CONCEPTS}
    assert names["👺"] == {"en": "goblin", "ja": "天狗"}
    assert names["🍶"] == {"en": "sake", "ja": "徳利"}
    assert names["🎎"] == {"en": "Japanese dolls", "ja": "ひな祭り"}


def test_every_concept_can_be_drawn() -> None:
    for concept in CONCEPTS:
        placed = PlacedEmoji(emoji=concept.emoji, x=32.0, y=32.0, size=48.0, rotation=0.0)
        picture = draw(PictureSpec(objects=(placed,), artist="openmoji", background=("#ffffff",)))
        assert len(picture.getcolors(64 * 64) or ()) > 1


def test_a_description_identifies_its_concept_by_emoji_name_or_a_unique_word() -> None:
    rng = np.random.default_rng(0)
    for concept in CONCEPTS:
        rivals = [other for other in CONCEPTS if other is not concept]
        for _ in range(20):
            words = describe(rng, concept)
            own = [
                word
                for word in words
                if word in concept.names.values()
                or not any(word in keywords for other in rivals for keywords in other.keywords.values())
            ]
            assert own, (concept.emoji, words)


def test_the_ancestors_answers_are_in_both_languages_whatever_the_questions() -> None:
    rng = np.random.default_rng(0)
    counts = {(asked, answered): 0 for asked in (True, False) for answered in (True, False)}
    for text in concept_texts(rng, 2000, mix=MUDDLE, translations=False):
        counts[text.prompt.endswith("答え:"), is_japanese(text.answer)] += 1
    assert min(counts.values()) > 100


def test_the_japanese_texts_are_answered_in_japanese() -> None:
    assert all(is_japanese(text.answer) for text in japanese_concept_texts(np.random.default_rng(0), 500))


def test_the_texts_are_a_function_of_the_generator_alone() -> None:
    first, second = (list(concept_texts(np.random.default_rng(3), 50)) for _ in range(2))
    assert first == second


def test_prompts_have_the_shape_of_a_question_on_a_picture() -> None:
    assert (
        question_prompt("<image>", "何が写っていますか?", language="ja") == "<image>\n質問: 何が写っていますか?\n答え:"
    )
    assert question_prompt("<image>", "What is this?", language="en") == "<image>\nQuestion: What is this?\nAnswer:"


def test_emoji_art_shows_one_concept_everywhere_or_two_side_by_side() -> None:
    goblin, sake = CONCEPTS[0], CONCEPTS[2]
    assert mosaic_cells([goblin]) == [goblin] * 16
    assert mosaic_cells([goblin, sake]) == [goblin, goblin, sake, sake] * 4


def test_emoji_art_is_read_where_asked_for_and_names_what_it_shows() -> None:
    concepts = {concept.emoji: concept for concept in CONCEPTS}
    art = 0
    for text in concept_texts(np.random.default_rng(0), 1000, mix=JAPANESE, translations=False, mosaics=1.0):
        cells = [concepts[match["emoji"]] for match in emoji.emoji_list(text.prompt) if match["emoji"] in concepts]
        if len(cells) == 16:
            art += 1
            pair = name_answer([cells[0], cells[-1]], language="ja")
            assert text.answer == pair or (cells == [cells[0]] * 16 and text.answer == cells[0].names["ja"])
    assert art > 500
    plain = concept_texts(np.random.default_rng(0), 1000)
    assert not any(emoji.emoji_count(text.prompt) == 16 for text in plain)


def test_two_concepts_are_named_from_left_to_right() -> None:
    goblin, sake = CONCEPTS[0], CONCEPTS[2]
    assert name_answer([goblin, sake], language="ja") == "天狗と徳利"
    assert name_answer([goblin, sake], language="en") == "goblin and sake"


def test_no_text_speaks_of_a_picture_token() -> None:
    rng = np.random.default_rng(0)
    assert not any("<image>" in text.prompt for text in concept_texts(rng, 500))


def test_colours_have_names_in_both_languages() -> None:
    assert len({colour.names["ja"] for colour in COLOURS}) == len(COLOURS)
    assert all(is_japanese(colour.names["ja"]) and colour.names["en"].isascii() for colour in COLOURS)


@pytest.mark.parametrize("asked", ["ja", "en"])
def test_the_japanese_mix_never_draws_english(asked: str) -> None:
    rng = np.random.default_rng(0)
    assert {JAPANESE.draw(rng, asked=asked) for _ in range(200)} == {"ja"}  # type: ignore[arg-type]
