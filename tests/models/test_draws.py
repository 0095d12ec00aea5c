"""Answers drawn at a temperature: by our own loop and by transformers' generate, alone and beside others."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from evovlm.models.decoding.draws import Draw, Draws, uniform
from evovlm.models.decoding.generation import generate
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.stock import Greedy, generate_stock
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt
from evovlm.tasks.decoding import Decoding, DecodingChanges
from tests.pico import pico_llm


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(pico_llm(tmp_path_factory.mktemp("draws") / "llm"), device="cpu")


def prompts_of(n: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 12, (n,), generator=generator).tolist()
    return [
        Prompt(ids=torch.randint(4, 200, (length,), generator=generator), draw=1000 + number)
        for number, length in enumerate(lengths)
    ]


def splitmix64(key: int, position: int) -> float:
    """The reference in whole numbers (Steele et al. 2014, figure 16)."""
    mask = 2**64 - 1
    mixed = (key + (position + 1) * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return ((mixed ^ (mixed >> 31)) >> 40) / 2**24


def test_the_numbers_are_those_of_splitmix64() -> None:
    keys = [0, 1, 2**40 + 7, 2**63 - 1]
    found = uniform(torch.tensor(keys).repeat(4), torch.arange(4).repeat_interleave(4))
    assert found.tolist() == [splitmix64(key, position) for position in range(4) for key in keys]


def test_numbers_of_neighbouring_answers_and_positions_are_spread_evenly() -> None:
    keys, positions = torch.arange(200).repeat_interleave(50), torch.arange(50).repeat(200)
    found = uniform(keys, positions)
    counts = torch.histc(found, bins=10, min=0, max=1)
    assert counts.min() > 900
    assert counts.max() < 1100
    assert abs(float(torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1])) < 0.03


@pytest.mark.parametrize(
    "draw", [Draw(temperature=0.7), Draw(temperature=1.0, top_p=0.8), Draw(temperature=2, top_k=3)]
)
def test_tokens_are_drawn_with_their_probability(draw: Draw) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    numbers = (torch.arange(20_000) + 0.5) / 20_000
    counts = Counter(draw.tokens(logits.expand(len(numbers), -1), numbers).tolist())
    shares = (logits.double() / draw.temperature).softmax(-1)
    kept = shares.argsort(descending=True)[: draw.top_k or None]
    shares = shares / shares[kept].sum()
    # As transformers: the fewest tokens whose probabilities reach top_p.
    n = int((shares[kept].cumsum(-1) < draw.top_p).sum()) + 1
    kept = kept[:n]
    expected = shares[kept] / shares[kept].sum()
    assert set(counts) == set(kept.tolist())
    for token, share in zip(kept.tolist(), expected.tolist(), strict=True):
        assert counts[token] / len(numbers) == pytest.approx(share, abs=2e-4)


def test_the_ends_of_the_interval_draw_a_token_that_is_kept() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 3.0, -torch.inf]]).repeat(2, 1)
    numbers = torch.tensor([0.0, 1 - 2**-24])
    for draw in (Draw(temperature=1.0), Draw(temperature=1.0, top_p=0.99), Draw(temperature=1.0, top_k=3)):
        assert set(draw.tokens(logits, numbers).tolist()) <= {0, 2}


def test_an_answer_does_not_depend_on_what_is_decoded_beside_it(llm: LoadedModel) -> None:
    prompts = prompts_of(40)
    draw = Draw(temperature=1.0, top_p=0.95)
    together = generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2}, draw=draw)
    alone = [generate_greedy(llm, [prompt], max_new_tokens=16, stop_ids={2}, draw=draw)[0] for prompt in prompts[:6]]
    backwards = generate_greedy(llm, prompts[::-1], max_new_tokens=16, stop_ids={2}, draw=draw)[::-1]
    assert together[:6] == alone
    assert together == backwards
    assert together != generate_greedy(llm, prompts, max_new_tokens=16, stop_ids={2})
    other = [replace(prompt, draw=prompt.draw + 1) for prompt in prompts]
    assert together != generate_greedy(llm, other, max_new_tokens=16, stop_ids={2}, draw=draw)


def test_transformers_generate_draws_the_same_tokens(llm: LoadedModel) -> None:
    prompts = prompts_of(6)
    settings = Greedy(max_new_tokens=12, repetition_penalty=1.3, temperature=0.9, top_k=20)
    stock = [row for each in prompts for row in generate_stock(llm, [each], decoding=settings, stop_ids={2})]
    ours = generate_greedy(llm, prompts, max_new_tokens=12, stop_ids={2}, penalty=1.3, draw=Draw.of(settings))
    assert ours == stock


def test_a_low_temperature_draws_the_likeliest(llm: LoadedModel) -> None:
    prompts = prompts_of(8)
    cold = Decoding(max_new_tokens=8, temperature=1e-4)
    assert (
        generate(llm, prompts, decoding=cold).texts == generate(llm, prompts, decoding=Decoding(max_new_tokens=8)).texts
    )


def test_a_slot_that_is_named_twice_counts_once() -> None:
    draws = Draws(Draw(temperature=1.0), n_slots=3, device=torch.device("cpu"))
    draws.enter(1, 5)
    logits = torch.zeros(1, 50)
    twice = draws.tokens(logits.expand(2, -1), [1, 1]).tolist()
    assert twice[0] == twice[1]
    following = draws.tokens(logits, [1]).tolist()
    expected = Draw(temperature=1.0).tokens(logits.expand(2, -1), torch.tensor([splitmix64(5, n) for n in range(2)]))
    assert [twice[0], *following] == expected.tolist()


def test_a_temperature_has_one_beam() -> None:
    pictures = Decoding(max_new_tokens=64, beams=5, repetition_penalty=1.5)
    changed = DecodingChanges(temperature=0.6, top_p=0.95, repeats=3).applied(pictures)
    assert (changed.beams, changed.repetition_penalty, changed.repeats) == (1, 1.5, 3)
    assert changed.draw_of("a", 0) != changed.draw_of("a", 1)
    assert changed.draw_of("a", 0) != replace(changed, seed=1).draw_of("a", 0)
    assert repr(replace(changed, beams=5)) == repr(pictures)
