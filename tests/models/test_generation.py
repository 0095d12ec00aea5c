"""Our decoding against transformers' own, token for token, on real pico models in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from evovlm.models import answer_memory
from evovlm.models.backbone import Backbone
from evovlm.models.decoding import greedy, slots
from evovlm.models.decoding.generation import generate
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.runner import Runner
from evovlm.models.decoding.stock import generate_stock
from evovlm.models.decoding.trial import packs_exactly
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question
from evovlm.tasks.task import Decoding
from tests.marks import quick_and_slow
from tests.paths import LLM_FAMILIES
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import PICTURE_FAMILIES

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
    monkeypatch.setattr(answer_memory, "_MOST_ON_CPU", rows_at_once)
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


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
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


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
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


def with_context(loaded: LoadedModel, n_tokens: int) -> LoadedModel:
    """Return the model with its context changed to this number of tokens."""
    loaded.model.config.get_text_config().max_position_embeddings = n_tokens
    return loaded


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=24), Decoding(max_new_tokens=24, beams=3)])
def test_no_answer_leads_past_the_context(tmp_path: Path, decoding: Decoding) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    prompts = prompts_for(loaded)
    lengths = [len(prompt.ids) for prompt in prompts]
    loaded = with_context(loaded, max(lengths) + 1)
    rooms = [min(24, max(lengths) + 1 - length) for length in lengths]
    assert len(set(rooms)) > 2
    assert min(rooms) == 1
    alone = [generate_stock(loaded, [prompt], decoding=decoding, stop_ids=()) for prompt in prompts]
    assert [len(rows[0]) for rows in alone] == rooms
    assert generate_stock(loaded, prompts, decoding=decoding, stop_ids=()) == [rows[0] for rows in alone]
    if decoding.beams == 1:
        assert generate_greedy(loaded, prompts, max_new_tokens=24, stop_ids=()) == [rows[0] for rows in alone]


def test_a_beam_search_at_the_end_of_the_context_is_generate_s_own(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    (prompt,) = prompts_for(loaded, ("百円",))
    decoding = Decoding(max_new_tokens=64, beams=4)
    whole = loaded.model.generate(
        input_ids=prompt.ids[None], max_length=len(prompt.ids) + 5, num_beams=4, do_sample=False, pad_token_id=3
    )[0, len(prompt.ids) :]
    expected = [token for token in whole.tolist() if token not in (2, 3)]
    loaded = with_context(loaded, len(prompt.ids) + 5)
    assert generate_stock(loaded, [prompt], decoding=decoding, stop_ids={2}) == [expected]


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("rows_at_once", [2, 96])
def test_finished_answers_are_reported_as_they_come(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch, beams: int, rows_at_once: int
) -> None:
    monkeypatch.setattr(answer_memory, "_MOST_ON_CPU", rows_at_once * beams)
    told: list[tuple[int, int]] = []
    decoding = Decoding(max_new_tokens=8, beams=beams)
    found = generate(
        llm, prompts_for(llm), decoding=decoding, on_answers=lambda n_done, n_tokens: told.append((n_done, n_tokens))
    )
    assert told[-1] == (len(QUESTIONS), found.tokens)
    assert told == sorted(told)
    if beams == 1:
        assert [n_done for n_done, _ in told] == [1, 2, 3, 4, 5]
    elif rows_at_once == 2:
        assert len(told) > 1


def test_streams_report_their_answers_one_at_a_time(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_PROMPTS_PER_STREAM", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    told: list[int] = []
    try:
        generate_greedy(
            llm, prompts_for(llm) * 4, max_new_tokens=6, stop_ids={2}, on_answers=lambda n_done, _: told.append(n_done)
        )
    finally:
        torch.set_num_threads(threads)
    assert told == list(range(1, 21))


def test_answers_end_at_their_own_limits(llm: LoadedModel) -> None:
    prompts = prompts_for(llm)
    whole = generate_greedy(llm, prompts, max_new_tokens=12, stop_ids={2})
    cut = generate_greedy(llm, prompts, max_new_tokens=12, stop_ids={2}, limits=[1, 30, 5, 2, 12])
    assert cut == [row[:limit] for row, limit in zip(whole, (1, 12, 5, 2, 12), strict=True)]


def test_several_streams_give_the_same_answers(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_for(llm)
    expected = generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2})
    monkeypatch.setattr(greedy, "_PROMPTS_PER_STREAM", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2}) == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", quick_and_slow(["gemma2", "qwen3", "mistral"], quick=2))
@pytest.mark.parametrize("n_slots", [1, 3])
def test_torch_s_own_attention_gives_the_same_answers(
    tmp_path: Path, family: str, n_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = None if family == "qwen3" else 12
    loaded = load_model(pico_llm(tmp_path / "m", family=family, sliding_window=window), device="cpu")
    prompts = prompts_for(loaded)
    stops = likely_stops(loaded, prompts)
    expected = stock_greedy(loaded, prompts, max_new_tokens=24, stop_ids=stops)
    monkeypatch.setattr(slots, "has_row_step", lambda *_: False)
    monkeypatch.setattr(answer_memory, "_MOST_ON_CPU", n_slots)
    monkeypatch.setattr(greedy, "_LEAST_SHARED_TOKENS", 1)
    assert packs_exactly(Backbone.of(loaded))
    assert generate_greedy(loaded, prompts, max_new_tokens=24, stop_ids=stops) == expected


def test_what_all_prompts_begin_with_is_read_once(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_for(llm, tuple(f"問題: りんごが{n}個と、みかんが二個。" for n in ("1", "12", "9", "7と8")))
    expected = stock_greedy(llm, prompts, max_new_tokens=16, stop_ids={2})
    read: list[int] = []
    states = Runner._states

    def counting(runner: Runner, inputs: Any, positions: torch.Tensor, **rest: Any) -> torch.Tensor:
        read.append(inputs["inputs_embeds"].shape[1])
        return states(runner, inputs, positions, **rest)

    monkeypatch.setattr(Runner, "_states", counting)
    monkeypatch.setattr(greedy, "_LEAST_SHARED_TOKENS", 4)
    assert generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2}) == expected
    assert read[0] == 9
    assert read[1] == sum(len(prompt.ids) - 9 for prompt in prompts)


@pytest.mark.parametrize("in_rows", [True, False])
def test_a_repetition_penalty_counts_prompt_and_answer_as_generate_does(
    llm: LoadedModel, in_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_for(llm)
    plain, penalised = (
        generate_stock(llm, prompts, decoding=Decoding(max_new_tokens=24, repetition_penalty=penalty), stop_ids={2})
        for penalty in (1.0, 1.5)
    )
    assert plain != penalised
    monkeypatch.setattr(slots, "has_row_step", lambda *_: in_rows)
    monkeypatch.setattr(answer_memory, "_MOST_ON_CPU", 2)
    monkeypatch.setattr(greedy, "_LEAST_SHARED_TOKENS", 1)
    assert generate_greedy(llm, prompts, max_new_tokens=24, stop_ids={2}, penalty=1.5) == penalised
    texts = generate(llm, prompts, decoding=Decoding(max_new_tokens=24, repetition_penalty=1.5)).texts
    assert tuple(text.strip() for text in texts) == tuple(
        llm.tokenizer.decode(row, skip_special_tokens=True).strip() for row in penalised
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no more"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_runs_out_is_answered_by_fewer_slots(
    llm: LoadedModel, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_for(llm)
    expected = generate_greedy(llm, prompts, max_new_tokens=8, stop_ids={2})
    advance, tried = Runner.advance, []

    def with_room_for_two(steps: Runner, entering: Any, guessed: Any) -> Any:
        tried.append(steps.n_slots)
        if steps.n_slots > 2:
            raise error
        return advance(steps, entering, guessed)

    monkeypatch.setattr(Runner, "advance", with_room_for_two)
    monkeypatch.setattr(answer_memory, "_MOST_ON_CPU", 8)
    assert generate_greedy(llm, prompts, max_new_tokens=8, stop_ids={2}) == expected
    assert sorted(set(tried), reverse=True) == [5, 2]


def test_tied_embeddings_are_decoded_alike(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", tie=True), device="cpu")
    prompts = prompts_for(loaded)
    expected = stock_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2})
    assert generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids={2}) == expected


@pytest.mark.parametrize("family", quick_and_slow(PICTURE_FAMILIES, quick=3))
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


def test_beams_over_logits_that_are_not_finite_are_an_error(llm_folder: Path) -> None:
    loaded = load_model(llm_folder, device="cpu")
    with torch.no_grad():
        loaded.model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(loaded, prompts_for(loaded), decoding=Decoding(max_new_tokens=4, beams=2))


def test_beams_that_memory_runs_out_for_are_searched_in_smaller_batches(
    llm: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, decoding = prompts_for(llm), Decoding(max_new_tokens=6, beams=2)
    expected = generate_stock(llm, prompts, decoding=decoding, stop_ids={2})
    found, rows = llm.model.generate, []

    def with_room_for_two(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("no more")
        return found(**inputs)

    monkeypatch.setattr(llm.model, "generate", with_room_for_two)
    assert generate_stock(llm, prompts, decoding=decoding, stop_ids={2}) == expected
    assert rows == [5, 2, 3, 1, 2]


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
