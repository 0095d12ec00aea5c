"""Guessed tokens save passes and change no answer, however wrong they are."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from evovlm.assets import asset_path
from evovlm.models.decoding import greedy, guesses
from evovlm.models.decoding.draws import Draw
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.guesses import guess, note_answer
from evovlm.models.decoding.runner import Runner
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.prompts import Question

STOP = 2


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(asset_path("zoo") / "math-a", device="cpu")


def asked(loaded: LoadedModel, n: int = 10) -> list[Prompt]:
    texts = [f"問題: りんごが{number}個あります。{number // 2}個食べました。何個ですか。 答え:" for number in range(n)]
    found = prepare_prompts(loaded, [Question(text=text) for text in texts])
    return [prompt for prompt in found if isinstance(prompt, Prompt)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each pass, except for those of trials."""
    found: list[int] = []
    step = Runner.step

    def counted(runner: Runner, entering: dict[int, Prompt]) -> torch.Tensor:
        tokens = step(runner, entering)
        found.append(len(tokens) - 1)
        return tokens

    monkeypatch.setattr(Runner, "step", counted)
    return found


def answer(loaded: LoadedModel, prompts: Sequence[Prompt], n: int = 24) -> list[list[int]]:
    return generate_greedy(loaded, prompts, max_new_tokens=n, stop_ids=(STOP,))


def test_the_same_answers_take_fewer_passes_the_second_time(loaded: LoadedModel, passes: list[int]) -> None:
    prompts = asked(loaded)
    first = answer(loaded, prompts)
    n_first = len(passes)
    passes.clear()
    assert answer(loaded, prompts) == first
    assert len(passes) <= n_first // 3


def test_wrong_guesses_change_no_answer(loaded: LoadedModel) -> None:
    prompts = asked(loaded)
    own = answer(loaded, prompts)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        fresh = asked(loaded)
        for prompt, tokens in zip(fresh, own, strict=True):
            # Right, wrong, too long, or with some tokens left out, inserted or replaced.
            changed = [token for token in tokens for _ in range(int(rng.choice([0, 1, 1, 1, 2])))]
            note_answer(prompt.ids, [int(rng.integers(1320)) if rng.random() < 0.2 else each for each in changed] * 2)
        assert answer(loaded, fresh) == own


@pytest.mark.parametrize("most", [1, 2, 5, 24])
def test_an_answer_keeps_its_limit(loaded: LoadedModel, most: int) -> None:
    prompts = asked(loaded)
    whole = answer(loaded, prompts)
    assert answer(loaded, prompts, n=most) == [tokens[:most] for tokens in whole]


def test_guesses_are_used_in_several_streams_and_with_waiting_prompts(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = asked(loaded)
    own = answer(loaded, prompts)
    monkeypatch.setattr(greedy, "_PROMPTS_PER_STREAM", 3)
    monkeypatch.setattr(greedy, "slots_at_once", lambda *_, **__: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert answer(loaded, prompts) == own
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("settings", [{"penalty": 1.3}, {"draw": Draw(temperature=1.0)}])
def test_drawn_and_penalised_answers_get_one_token_a_pass(
    loaded: LoadedModel, passes: list[int], settings: dict[str, object]
) -> None:
    prompts = asked(loaded)
    first = generate_greedy(loaded, prompts, max_new_tokens=8, stop_ids=(), **settings)  # type: ignore[arg-type]
    assert generate_greedy(loaded, prompts, max_new_tokens=8, stop_ids=(), **settings) == first  # type: ignore[arg-type]
    assert len(passes) == 16


def test_a_guess_continues_the_latest_answer_that_begins_in_the_same_way() -> None:
    prompt = torch.tensor([1, 2])
    assert guess(prompt, [5], most=3) == ()
    note_answer(prompt, [5, 6, 7, 8])
    note_answer(prompt, [5, 9])
    assert guess(prompt, [5], most=3) == [9]
    assert guess(prompt, [5, 6], most=1) == [7]
    assert guess(prompt, [5], most=0) == ()


def test_a_guess_continues_behind_the_same_tokens_at_the_nearest_place() -> None:
    prompt = torch.tensor([1, 2])
    note_answer(prompt, [1, 2, 10, 0, 0, 1, 2, 20, 21])
    assert guess(prompt, [9, 9, 9, 9, 1, 2], most=2) == [20, 21]
    assert guess(prompt, [7, 1, 2], most=2) == [10, 0]
    assert guess(prompt, [7, 7, 7], most=2) == ()


def test_answers_are_forgotten_with_their_prompt() -> None:
    prompt = torch.tensor([1, 2])
    note_answer(prompt, [5, 6])
    known = len(guesses._answers)
    other = torch.tensor([1, 2])
    assert guess(other, [5], most=2) == (), "another prompt, though with the same tokens: its picture may differ"
    del prompt
    assert len(guesses._answers) == known - 1
