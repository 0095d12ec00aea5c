"""Our decoding against transformers' own, token for token, on real pico models in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.models import generation
from evovlm.models.backbone import Backbone
from evovlm.models.generation import generate, generate_greedy
from evovlm.models.greedy import Ending, decode
from evovlm.models.image_features import project_images
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.packed import packed_attention, packs_exactly
from evovlm.models.prompt import Prompt, left_padded, prepare_prompt
from evovlm.models.runner import CpuRunner, DeviceRunner
from evovlm.models.slots import shape_of
from evovlm.tasks.task import Decoding
from tests.pico import IMAGE_TOKEN, pico_llm, pico_vlm
from tests.pico_families import TEXT_PICOS, VLM_PICOS

QUESTIONS = ("あめが3個", "I have 12 apples and eat 5.", "問題: 百円です。何個ですか", "1", "ほんを二冊かいました" * 3)


def prompts_for(loaded: LoadedModel, texts: tuple[str, ...] = QUESTIONS) -> list[Prompt]:
    """Return text prompts."""
    return [prepare_prompt(loaded, text, features=None) for text in texts]


def stock_greedy(
    loaded: LoadedModel, prompts: list[Prompt], *, max_new_tokens: int, stop_ids: set[int]
) -> list[list[int]]:
    """Return what `model.generate` answers to each prompt on its own: no padding, no batch."""
    rows = []
    for prompt in prompts:
        found = loaded.model.generate(
            input_ids=prompt.ids[None],
            attention_mask=torch.ones_like(prompt.ids[None]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(stop_ids),
            pad_token_id=3,
        )
        tokens = found[0, len(prompt.ids) :].tolist()
        ends = [place for place, token in enumerate(tokens) if token in stop_ids]
        rows.append(tokens[: ends[0]] if ends else tokens)
    return rows


def likely_stops(loaded: LoadedModel, prompts: list[Prompt]) -> set[int]:
    """Return tokens that end some of these answers early and others not, so that rows leave at different steps."""
    rows = stock_greedy(loaded, prompts, max_new_tokens=24, stop_ids={2})
    return {2, rows[0][3], rows[2][9]}


@pytest.mark.parametrize("rows_at_once", [1, 2, 96])
def test_greedy_tokens_are_those_of_generate(
    llm: LoadedModel, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_SLOTS_ON_CPU", rows_at_once)
    prompts = prompts_for(llm)
    stops = likely_stops(llm, prompts)
    expected = stock_greedy(llm, prompts, max_new_tokens=24, stop_ids=stops)
    assert len({len(row) for row in expected}) > 2
    assert generate_greedy(llm, prompts, max_new_tokens=24, stop_ids=stops) == expected


@pytest.mark.parametrize("window", [8, 30])
def test_a_sliding_window_is_kept_to(tmp_path: Path, window: int) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", n_blocks=2, sliding_window=window), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


@pytest.mark.parametrize("family", [name for name in TEXT_PICOS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES])
def test_every_language_model_is_decoded_as_generate_does(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", family=family), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_layers_of_two_kinds_of_attention_keep_to_their_windows(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", family=family, sliding_window=12), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


@pytest.mark.parametrize("family", [name for name in TEXT_PICOS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES])
def test_every_family_is_decoded_without_padding(tmp_path: Path, family: str) -> None:
    backbone = Backbone.of(load_model(pico_llm(tmp_path / "m", family=family), device="cpu"))
    assert packs_exactly(backbone)


def test_attention_with_more_than_we_know_is_left_to_transformers(llm: LoadedModel) -> None:
    config = GptOssConfig(
        vocab_size=len(llm.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=8,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = GptOssForCausalLM(config).eval()
    loaded = LoadedModel(model=model, tokenizer=llm.tokenizer, processor=None, folder=Path("sinks"))
    backbone = Backbone.of(loaded)
    assert not packs_exactly(backbone)
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2}) == expected


def test_answers_end_at_their_own_limits(llm: LoadedModel) -> None:
    prompts = prompts_for(llm)
    whole = generate_greedy(llm, prompts, max_new_tokens=12, stop_ids={2})
    cut = generate_greedy(llm, prompts, max_new_tokens=12, stop_ids={2}, limits=[1, 30, 5, 2, 12])
    assert cut == [row[:limit] for row, limit in zip(whole, (1, 12, 5, 2, 12), strict=True)]


def test_several_streams_give_the_same_answers(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_for(llm)
    expected = generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2})
    monkeypatch.setattr(generation, "_PROMPTS_PER_STREAM", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2}) == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen3"])
@pytest.mark.parametrize("n_slots", [1, 3])
def test_the_steps_of_a_gpu_give_the_same_answers(tmp_path: Path, family: str, n_slots: int) -> None:
    window = None if family == "qwen3" else 12
    loaded = load_model(pico_llm(tmp_path / "m", family=family, sliding_window=window), device="cpu")
    backbone, prompts = Backbone.of(loaded), prompts_for(loaded)
    stops = frozenset(likely_stops(loaded, prompts))
    expected = stock_greedy(loaded, prompts, max_new_tokens=24, stop_ids=set(stops))
    room = max(len(prompt.ids) for prompt in prompts) + 24
    with torch.inference_mode(), packed_attention(backbone):
        runner = DeviceRunner(backbone, shape_of(backbone), n_slots=n_slots, room=room, image_token=None)
        found = dict(decode(runner, dict(enumerate(prompts)), ending=Ending(max_new_tokens=24, stop_ids=stops)))
    assert [found[number] for number in range(len(prompts))] == expected


def test_memory_that_runs_out_is_answered_by_fewer_slots(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_for(llm)
    expected = generate_greedy(llm, prompts, max_new_tokens=8, stop_ids={2})
    advance, tried = CpuRunner.advance, []

    def with_room_for_two(runner: CpuRunner, entering: Any) -> Any:
        tried.append(runner.n_slots)
        if runner.n_slots > 2:
            raise torch.OutOfMemoryError("no more")
        return advance(runner, entering)

    monkeypatch.setattr(CpuRunner, "advance", with_room_for_two)
    monkeypatch.setattr(generation, "_SLOTS_ON_CPU", 8)
    assert generate_greedy(llm, prompts, max_new_tokens=8, stop_ids={2}) == expected
    assert sorted(set(tried), reverse=True) == [5, 4, 2]


def test_tied_embeddings_are_decoded_alike(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", tie=True), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2}) == expected


def test_pictures_and_text_are_answered_in_one_batch_as_generate_answers_each(
    vlm: LoadedModel, images: dict[str, Image.Image]
) -> None:
    questions = [("red", "何の絵ですか"), ("blue", "What?"), ("green", "何の絵ですか"), ("red", "1"), (None, "3+4は")]
    features = project_images(vlm, images)
    prompts = []
    expected = []
    for picture, question in questions:
        text = f"{IMAGE_TOKEN}\n{question}\n" if picture else question
        prompts.append(prepare_prompt(vlm, text, features=features[picture] if picture else None))
        inputs = _processed(vlm, text, images.get(picture or ""))
        assert prompts[-1].ids.tolist() == inputs["input_ids"][0].tolist()
        found = vlm.model.generate(**inputs, max_new_tokens=16, do_sample=False, pad_token_id=3)
        expected.append([token for token in found[0, inputs["input_ids"].shape[1] :].tolist() if token != 2])
    assert len({tuple(row) for row in expected}) > 3
    assert generate_greedy(vlm, prompts, max_new_tokens=16, stop_ids={2}) == expected


@pytest.mark.parametrize("family", VLM_PICOS)
def test_every_vlm_answers_texts_as_generate_does(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family=family), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


@pytest.mark.parametrize(
    ("family", "has_tiles"), [("llava_next", True), ("llava_onevision", True), ("vipllava", False)]
)
def test_pictures_cut_into_tiles_or_not_are_answered_as_generate_answers_each(
    tmp_path: Path, images: dict[str, Image.Image], family: str, has_tiles: bool
) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family=family), device="cpu")
    wide = {**images, "wide": Image.new("RGB", (90, 30), (10, 200, 10))}
    features = project_images(loaded, wide)
    assert (len({len(rows) for rows in features.values()}) > 1) == has_tiles
    prompts, expected = [], []
    for name, picture in wide.items():
        text = f"{IMAGE_TOKEN}\n何の絵ですか"
        inputs = _processed(loaded, text, picture)
        prompts.append(prepare_prompt(loaded, text, features=features[name]))
        assert prompts[-1].ids.tolist() == inputs["input_ids"][0].tolist()
        found = loaded.model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=3)
        expected.append([token for token in found[0, inputs["input_ids"].shape[1] :].tolist() if token != 2])
    assert generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2}) == expected


def test_beams_and_penalty_see_picture_and_prompt_as_generate_does(
    vlm: LoadedModel, images: dict[str, Image.Image]
) -> None:
    features = project_images(vlm, images)
    text = f"{IMAGE_TOKEN}\n何の絵ですか\n"
    decoding = Decoding(max_new_tokens=10, beams=3, repetition_penalty=1.5)
    inputs = _processed(vlm, text, images["red"])
    found = vlm.model.generate(
        **inputs, max_new_tokens=10, num_beams=3, repetition_penalty=1.5, do_sample=False, pad_token_id=3
    )
    expected = vlm.tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    generated = generate(vlm, [prepare_prompt(vlm, text, features=features["red"])], decoding=decoding)
    assert generated.texts == (expected,)


def test_text_from_a_stop_string_on_is_cut_and_its_row_leaves_early(llm: LoadedModel) -> None:
    prompts = prompts_for(llm)
    free = generate(llm, prompts, decoding=Decoding(max_new_tokens=64))
    stops = tuple(text[6:8] for text in free.texts if len(text) > 8)
    cut = generate(llm, prompts, decoding=Decoding(max_new_tokens=64, stop=stops))
    for whole, text in zip(free.texts, cut.texts, strict=True):
        assert whole.startswith(text)
        assert not any(stop in text for stop in stops)
    assert cut.tokens < free.tokens


def test_logits_that_are_not_finite_are_an_error(llm_folder: Path) -> None:
    loaded = load_model(llm_folder, device="cpu")
    with torch.no_grad():
        loaded.model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        generate_greedy(loaded, prompts_for(loaded), max_new_tokens=4, stop_ids={2})


def test_no_prompts_give_no_answers(llm: LoadedModel) -> None:
    assert generate(llm, [], decoding=Decoding(max_new_tokens=4)).texts == ()


def test_a_prompt_that_begins_with_the_start_token_gets_no_second_one(llm: LoadedModel) -> None:
    plain, written = prompts_for(llm, ("12", "<s>12"))
    assert plain.ids.tolist() == written.ids.tolist()


def test_padding_is_at_the_left() -> None:
    short, long = Prompt(ids=torch.tensor([7])), Prompt(ids=torch.tensor([4, 5, 6]))
    ids, mask = left_padded([short, long], device=torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 7], [4, 5, 6]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.gpu
def test_on_a_gpu_tokens_are_those_of_generate(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", n_blocks=3), device="cuda")
    prompts = prompts_for(loaded)
    expected = []
    for prompt in prompts:
        ids = prompt.ids[None].to(loaded.device)
        found = loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=3
        )
        expected.append([token for token in found[0, ids.shape[1] :].tolist() if token != 2])
    assert generate_greedy(loaded, prompts, max_new_tokens=24, stop_ids={2}) == expected


def _processed(loaded: LoadedModel, text: str, picture: Image.Image | None) -> dict[str, Any]:
    processor: Any = loaded.processor
    return dict(processor(images=picture, text=text, return_tensors="pt"))
