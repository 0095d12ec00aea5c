"""Our decoding against transformers' own, token for token, on real pico models in float32."""

from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.models import generation, greedy
from evovlm.models.generation import generate, generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question
from evovlm.tasks.task import Decoding
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import TEXT_PICOS, VLM_PICOS

QUESTIONS = ("あめが3個", "I have 12 apples and eat 5.", "問題: 百円です。何個ですか", "1", "ほんを二冊かいました" * 3)


def prompts_for(loaded: LoadedModel, texts: tuple[str, ...] = QUESTIONS) -> list[Prompt]:
    """Return text prompts."""
    prompts = prepare_prompts(loaded, [Question(text=text) for text in texts])
    return [prompt for prompt in prompts if isinstance(prompt, Prompt)]


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
    monkeypatch.setattr(generation, "_ROWS_ON_CPU", rows_at_once)
    prompts = prompts_for(llm)
    stops = likely_stops(llm, prompts)
    expected = stock_greedy(llm, prompts, max_new_tokens=24, stop_ids=stops)
    assert len({len(row) for row in expected}) > 2
    assert generate_greedy(llm, prompts, max_new_tokens=24, stop_ids=stops) == expected


@pytest.mark.parametrize("steps_between_checks", [1, 5, 100])
def test_asking_more_seldom_what_has_finished_changes_nothing(
    llm: LoadedModel, steps_between_checks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "_STEPS_BETWEEN_CHECKS", {"cpu": steps_between_checks})
    prompts = prompts_for(llm)
    stops = likely_stops(llm, prompts)
    expected = stock_greedy(llm, prompts, max_new_tokens=24, stop_ids=stops)
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
def test_layers_of_two_kinds_of_attention_are_left_to_transformers(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", family=family, sliding_window=12), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


def test_tied_embeddings_are_decoded_alike(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", tie=True), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2}) == expected


@pytest.mark.parametrize("family", VLM_PICOS)
def test_every_vlm_answers_texts_as_generate_does(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family=family), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=20, stop_ids={2}) == expected


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
