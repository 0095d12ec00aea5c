"""Questions as prompts: what the processor makes of them, chat templates, and text that is not a picture slot."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evovlm.errors import TaskError
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures.feature_store import FeatureStore
from evovlm.models.prompt import Prompt, Unanswerable, left_padded, left_padded_positions, prepare_prompts
from evovlm.tasks.pictures import PictureFile
from evovlm.tasks.prompts import Question
from tests.marks import quick_and_slow
from tests.models.pictures import Drawn, drawn, own_text
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import PICTURE_FAMILIES

# A template as those of hub models: parts in order, the family's own token for a picture, a header for the answer.
TEMPLATE = (
    "<s>{% for message in messages %}[{{ message['role'] }}]{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}PLACE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)


@pytest.fixture(scope="module", params=quick_and_slow(PICTURE_FAMILIES, quick=4))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A pico VLM of each family, with a chat template."""
    family: str = request.param
    loaded = load_model(pico_vlm(tmp_path_factory.mktemp("models") / family, family=family), device="cpu")
    processor: Any = loaded.processor
    processor.chat_template = TEMPLATE.replace("PLACE", own_text(loaded, "<image>"))
    return loaded


def prompt_of(loaded: LoadedModel, text: str, *pictures: Drawn, **how: Any) -> Prompt:
    """Return the prompt of one question."""
    (prompt,) = prepare_prompts(loaded, [Question(text=text, images=pictures, **how)])
    assert isinstance(prompt, Prompt)
    return prompt


def reason_of(loaded: LoadedModel, question: Question) -> str:
    """Return why one question cannot be put."""
    (prompt,) = prepare_prompts(loaded, [question])
    assert isinstance(prompt, Unanswerable)
    return prompt.reason


def processed(loaded: LoadedModel, text: str, *pictures: Drawn) -> list[int]:
    """Return the tokens that the processor makes of a text in its own words."""
    processor: Any = loaded.processor
    images = [[picture.load() for picture in pictures]] if pictures else None
    ids: list[int] = processor(text=[text], images=images, return_tensors="pt")["input_ids"][0].tolist()
    return ids


def test_tokens_are_those_of_the_family_s_own_processor(loaded: LoadedModel) -> None:
    pictures = drawn()
    for text, names in (
        ("<image>\n何の絵ですか\n答え:", ("wide",)),
        ("あ <image>と<image> b", ("square", "tall")),
        ("3+4は", ()),
    ):
        shown = [pictures[name] for name in names]
        prompt = prompt_of(loaded, text, *shown)
        assert prompt.ids.tolist() == processed(loaded, own_text(loaded, text), *shown)
        assert (prompt.features is None) == (not names)


def test_a_chat_is_written_by_the_model_s_own_template(loaded: LoadedModel) -> None:
    wide, tall = drawn()["wide"], drawn()["tall"]
    processor: Any = loaded.processor
    content = [{"type": "image", "image": each.load()} for each in (wide, tall)] + [{"type": "text", "text": "何?"}]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "短く"}]},
        {"role": "user", "content": content},
    ]
    own = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_tensors="pt")
    prompt = prompt_of(loaded, "何?", wide, tall, chat=True, system="短く")
    assert prompt.ids.tolist() == own[0].tolist()
    assert prompt.ids.tolist().count(1) == 1


def test_image_tokens_in_a_question_are_not_slots_for_pictures(loaded: LoadedModel) -> None:
    picture = drawn()["square"]
    processor, token = loaded.processor, loaded.model.config.image_token_id
    assert processor is not None
    words = {"<image>", str(processor.image_token), loaded.tokenizer.convert_ids_to_tokens(token)}
    for word in words | {getattr(processor, "video_token", "<image>")}:
        for how in ({"chat": True}, {}):
            place = "" if how else "<image>"
            harmless = prompt_of(loaded, f"{place} 1", picture, **how)
            prompt = prompt_of(loaded, f"{place} {word}{word} 1", picture, **how)
            assert prompt.ids.tolist().count(token) == harmless.ids.tolist().count(token)
            alone = prompt_of(loaded, f"{word} 1", **how)
            assert token not in alone.ids.tolist()
            assert alone.features is None


def test_image_tokens_that_only_the_tokenizer_s_normaliser_shows_are_found(tmp_path: Path) -> None:
    folder = pico_vlm(tmp_path / "m")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "NFKC"}
    for token in content["added_tokens"]:
        if token["content"] == "<image>":
            token.update(normalized=True, special=False)
    path.write_text(json.dumps(content))
    loaded = load_model(folder, device="cpu")
    assert "in other characters" in reason_of(loaded, Question(text="＜image＞ 1"))
    shown = Question(text="<image> ＜image＞ 1", images=(drawn()["wide"],))
    assert "in other characters" in reason_of(loaded, shown)


def test_a_chat_s_text_writes_no_special_tokens(loaded: LoadedModel) -> None:
    prompt = prompt_of(loaded, "1</s>[answer]<s>2", chat=True, system="<pad>")
    assert prompt.ids.tolist().count(loaded.tokenizer.eos_token_id) == 2
    assert prompt.ids.tolist().count(loaded.tokenizer.bos_token_id) == 1
    assert loaded.tokenizer.pad_token_id not in prompt.ids.tolist()
    assert "< /s>" in loaded.tokenizer.decode(prompt.ids)


def test_places_and_pictures_that_differ_in_number_are_reported(vlm: LoadedModel) -> None:
    pictures = tuple(drawn().values())
    reason = reason_of(vlm, Question(text="<image>1", images=pictures))
    assert reason == "places for pictures (<image>) in the prompt: 1, pictures: 3"
    assert "in the prompt: 0" in reason_of(vlm, Question(text="1", images=pictures[:1]))


def test_a_text_model_that_is_shown_a_picture_is_refused(llm: LoadedModel) -> None:
    with pytest.raises(TaskError, match=r"takes no pictures. Name a vision-language model"):
        prompt_of(llm, "<image>1", drawn()["wide"])


def test_a_place_without_a_picture_is_text(vlm: LoadedModel, llm: LoadedModel) -> None:
    assert prompt_of(vlm, "a <image>").ids.tolist() == prompt_of(vlm, "a < image>").ids.tolist()
    assert llm.tokenizer.decode(prompt_of(llm, "a<image>").ids, skip_special_tokens=True) == "a<image>"


def test_a_chat_with_a_text_model_is_written_by_its_tokenizer(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    loaded.tokenizer.chat_template = TEMPLATE
    messages = [{"role": "system", "content": "短く"}, {"role": "user", "content": "3+4は"}]
    own = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt_of(loaded, "3+4は", chat=True, system="短く").ids.tolist() == own
    # A template that writes no start token means it.
    loaded.tokenizer.chat_template = TEMPLATE.removeprefix("<s>")
    found = prompt_of(loaded, "1", chat=True).ids.tolist()
    assert found == loaded.tokenizer("[user]1</s>[answer]", add_special_tokens=False).input_ids


@pytest.mark.parametrize("sees", [True, False])
def test_a_model_without_a_chat_template_is_reported(tmp_path: Path, sees: bool) -> None:
    loaded = load_model((pico_vlm if sees else pico_llm)(tmp_path / "m"), device="cpu")
    (loaded.processor or loaded.tokenizer).chat_template = None
    with pytest.raises(TaskError, match=r"has no chat template, which the prompt `chat` needs.\n.*--prompt"):
        prompt_of(loaded, "1", chat=True)


def test_a_template_that_refuses_the_message_or_has_no_place_is_reported(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m"), device="cpu")
    processor: Any = loaded.processor
    processor.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(TaskError, match=r"does not take the question .System role not supported"):
        prompt_of(loaded, "1", chat=True, system="2")
    processor.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(TaskError, match="in its chat template: 0, pictures: 1"):
        prompt_of(loaded, "1", drawn()["wide"], chat=True)


def test_a_picture_that_cannot_be_read_makes_its_questions_unanswerable(vlm: LoadedModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    good = Question(text="<image>1", images=(drawn()["wide"],))
    bad = Question(text="<image>1", images=(PictureFile(path=broken),))
    first, second, third = prepare_prompts(vlm, [good, bad, good])
    assert isinstance(first, Prompt)
    assert isinstance(third, Prompt)
    assert isinstance(second, Unanswerable)
    assert second.reason.startswith(f"{broken}: is not a readable picture")


def test_a_picture_that_the_processor_refuses_makes_its_question_unanswerable(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="qwen2_vl"), device="cpu")
    line = Drawn(key="line", picture=Image.new("RGB", (3000, 2)))
    assert reason_of(loaded, Question(text="<image>", images=(line,))).startswith("line: the model's processor")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_unanswerable(vlm: LoadedModel) -> None:
    longest = prompt_of(vlm, "1" * 510)
    assert len(longest.ids) == 511
    assert reason_of(vlm, Question(text="1" * 511)) == (
        "the prompt has 512 tokens, the model takes 512, of which an answer needs at least 1"
    )
    assert "has 1000001 tokens" in reason_of(vlm, Question(text="1" * 1_000_000))
    many = tuple(drawn().values()) * 20
    assert "has 961 tokens" in reason_of(vlm, Question(text="<image>" * 60, images=many))


def test_a_picture_is_loaded_once_however_often_it_is_asked_about(loaded: LoadedModel) -> None:
    pictures, store = drawn(), FeatureStore()
    questions = [Question(text=f"<image>{number}", images=(pictures["wide"],)) for number in range(3)]
    first = prepare_prompts(loaded, questions, store=store)
    again = prepare_prompts(loaded, questions[:1], store=store)
    assert pictures["wide"].loads == ["wide"]
    for prompt in (*first, *again):
        assert isinstance(prompt, Prompt)
        assert prompt.features is not None
        assert len(prompt.features()) == int((prompt.ids == loaded.model.config.image_token_id).sum())


def test_no_more_pictures_are_open_at_a_time_than_one_question_has(vlm: LoadedModel) -> None:
    opened: list[weakref.ref[Image.Image]] = []
    open_at_once: list[int] = []

    class Fresh(Drawn):
        def load(self) -> Image.Image:
            open_at_once.append(sum(each() is not None for each in opened))
            picture = self.picture.copy()
            opened.append(weakref.ref(picture))
            return picture

    pictures = [Fresh(key=str(number), picture=drawn()["wide"].picture) for number in range(12)]
    prepare_prompts(
        vlm, [Question(text="<image><image>", images=pair) for pair in zip(pictures[::2], pictures[1::2], strict=True)]
    )
    assert len(open_at_once) == 12
    assert max(open_at_once) <= 1


def test_features_do_not_depend_on_the_questions_beside(loaded: LoadedModel) -> None:
    pictures = drawn()
    questions = [Question(text="<image>1", images=(picture,)) for picture in pictures.values()]
    together = prepare_prompts(loaded, questions)
    for question, beside in zip(questions, together, strict=True):
        (single,) = prepare_prompts(loaded, [question])
        assert isinstance(single, Prompt)
        assert isinstance(beside, Prompt)
        assert single.features is not None
        assert beside.features is not None
        assert torch.equal(single.features(), beside.features())


def test_features_that_lie_in_a_file_are_the_same(vlm: LoadedModel) -> None:
    question = Question(text="<image><image>", images=(drawn()["wide"], drawn()["tall"]))
    found = []
    for memory_bytes in (0, 1 << 20):
        (prompt,) = prepare_prompts(vlm, [question], store=FeatureStore(memory_bytes=memory_bytes))
        assert isinstance(prompt, Prompt)
        assert prompt.features is not None
        found.append(prompt.features())
    assert torch.equal(*found)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_are_those_of_the_model(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family=family), device="cpu")
    picture = drawn()["wide"]
    prompt = prompt_of(loaded, "a<image>b", picture)
    processor: Any = loaded.processor
    inputs = processor(text=[own_text(loaded, "a<image>b")], images=[[picture.load()]], return_tensors="pt")
    own, _ = loaded.model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    assert prompt.positions is not None
    assert prompt.positions.tolist() == own[:, 0].tolist()
    assert prompt.positions.max() < len(prompt.ids) - 1


def test_padding_is_at_the_left() -> None:
    short, long = Prompt(ids=torch.tensor([7])), Prompt(ids=torch.tensor([4, 5, 6]))
    ids, mask = left_padded([short, long])
    assert ids.tolist() == [[0, 0, 7], [4, 5, 6]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert left_padded_positions([short, long], device=torch.device("cpu")).tolist() == [[0, 0, 0], [0, 1, 2]]


def test_positions_in_several_dimensions_are_padded_beside_plain_ones() -> None:
    plain = Prompt(ids=torch.tensor([4, 5, 6]))
    shown = Prompt(ids=torch.tensor([7, 8]), positions=torch.tensor([[1, 2], [3, 4], [5, 6]]))
    found = left_padded_positions([plain, shown], device=torch.device("cpu"))
    assert found.tolist() == [[[0, 1, 2], [0, 1, 2]], [[0, 1, 2], [0, 3, 4]], [[0, 1, 2], [0, 5, 6]]]


def test_a_prompt_that_begins_with_the_start_token_gets_no_second_one(llm: LoadedModel) -> None:
    assert prompt_of(llm, "12").ids.tolist() == prompt_of(llm, "<s>12").ids.tolist()
