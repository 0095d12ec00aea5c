"""Questions with pictures, for every family: answered as the model's own `generate` answers the processor's inputs."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from evovlm.models.decoding.generation import generate
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.recipes.families import VLM_FAMILIES
from evovlm.tasks.prompts import Question
from evovlm.tasks.task import Decoding
from tests.marks import quick_and_slow
from tests.models.pictures import Drawn, drawn, own_text
from tests.pico import pico_vlm
from tests.pico_families import PICTURE_FAMILIES, VLM_PICOS

QUESTIONS = (
    ("<image>\n何の絵ですか", ("square",)),
    ("3+4は", ()),
    ("<image>What?", ("wide",)),
    ("<image>と<image>\n1", ("square", "wide")),
    ("あ<image>何", ("tall",)),
    ("ほんを二冊かいました" * 3, ()),
    ("<image><image>", ("tall", "tall")),
)


def asked(pictures: dict[str, Drawn]) -> list[Question]:
    """Return questions without pictures, with one and with several, of many lengths."""
    return [Question(text=text, images=tuple(pictures[name] for name in names)) for text, names in QUESTIONS]


def generated_alone(loaded: LoadedModel, question: Question, *, stops: tuple[int, ...] = (2,), **how: Any) -> list[int]:
    """Return what the model itself generates from what its processor makes of one question, without the stop token."""
    processor: Any = loaded.processor
    pictures = [[picture.load() for picture in question.images]] if question.images else None
    inputs = processor(text=[own_text(loaded, question.text)], images=pictures, return_tensors="pt").to(loaded.device)
    found = loaded.model.generate(**inputs, do_sample=False, pad_token_id=3, eos_token_id=list(stops), **how)
    return list(
        itertools.takewhile(lambda token: token not in stops, found[0, inputs["input_ids"].shape[1] :].tolist())
    )


def with_loud_pictures(loaded: LoadedModel) -> LoadedModel:
    """Return the model with a projector that makes much of pictures (that of an untrained Gemma 3 makes nothing) and a
    language model that cares whom its tokens attend to."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(loaded.model.named_parameters()):
            if "projector" in name or "merger" in name:
                parameter.add_(torch.randn(parameter.shape, generator=draw).to(parameter.device))
            if "language_model" in name and "self_attn" in name:
                parameter.copy_(parameter + 3 if "norm" in name else 4 * parameter)
    return loaded


@pytest.fixture(scope="module", params=quick_and_slow(PICTURE_FAMILIES, quick=4))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A pico VLM of each family."""
    family: str = request.param
    return with_loud_pictures(
        load_model(pico_vlm(tmp_path_factory.mktemp("models") / family, family=family, n_blocks=4), device="cpu")
    )


def test_questions_of_one_batch_are_answered_as_generate_answers_each(loaded: LoadedModel) -> None:
    questions = asked(drawn())
    prompts = [prompt for prompt in prepare_prompts(loaded, questions) if isinstance(prompt, Prompt)]
    endless = generated_alone(loaded, questions[0], stops=(), max_new_tokens=16)
    # Rows leave the batch at different steps.
    stops = (2, endless[5])
    expected = [generated_alone(loaded, question, stops=stops, max_new_tokens=16) for question in questions]
    assert len({tuple(row) for row in expected}) > 4
    assert len({len(row) for row in expected}) > 1
    assert generate_greedy(loaded, prompts, max_new_tokens=16, stop_ids=stops) == expected


def test_beams_and_penalty_see_pictures_and_prompt_as_generate_does(loaded: LoadedModel) -> None:
    questions = asked(drawn())
    prompts = [prompt for prompt in prepare_prompts(loaded, questions) if isinstance(prompt, Prompt)]
    how = {"max_new_tokens": 10, "num_beams": 3, "repetition_penalty": 1.5}
    rows = [generated_alone(loaded, question, **how) for question in questions]
    expected = tuple(text.strip() for text in loaded.tokenizer.batch_decode(rows, skip_special_tokens=True))
    decoding = Decoding(max_new_tokens=10, beams=3, repetition_penalty=1.5)
    assert tuple(text.strip() for text in generate(loaded, prompts, decoding=decoding).texts) == expected


def test_a_second_candidate_runs_no_vision_encoder(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt for prompt in prepare_prompts(loaded, asked(drawn())) if isinstance(prompt, Prompt)]
    tower = getattr(loaded.model.model, "vision_tower", None) or loaded.model.model.visual

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the vision encoder ran")

    handle = tower.register_forward_pre_hook(refuse)
    try:
        for beams in (1, 2):
            generated = generate(loaded, prompts, decoding=Decoding(max_new_tokens=2, beams=beams))
            assert len(generated.texts) == len(prompts)
    finally:
        handle.remove()


def test_every_pico_is_decoded_and_every_decoded_family_has_a_pico() -> None:
    assert sorted(VLM_PICOS) == sorted(VLM_FAMILIES)


@pytest.mark.gpu
@pytest.mark.parametrize("family", VLM_PICOS)
def test_on_a_gpu_pictures_are_answered_as_generate_does(tmp_path: Path, family: str) -> None:
    on_gpu = with_loud_pictures(load_model(pico_vlm(tmp_path / "m", family=family, n_blocks=4), device="cuda"))
    for question in asked(drawn()):
        (prompt,) = prepare_prompts(on_gpu, [question])
        assert isinstance(prompt, Prompt)
        expected = generated_alone(on_gpu, question, max_new_tokens=12)
        assert generate_greedy(on_gpu, [prompt], max_new_tokens=12, stop_ids={2}) == [expected]
