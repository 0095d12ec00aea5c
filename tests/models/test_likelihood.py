"""Likelihoods in padded batches are those of one text after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.models.decoding import likelihood
from evovlm.models.decoding.likelihood import Continuation, Likelihood, likelihoods
from evovlm.models.loading import LoadedModel, load_model
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(scope="module", params=["mistral", "gemma2", "llava"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A text model, one that caps its logits, and the language model of a VLM."""
    folder = tmp_path_factory.mktemp("model") / request.param
    if request.param == "llava":
        return load_model(pico_vlm(folder), device="cpu")
    return load_model(pico_llm(folder, family=request.param), device="cpu")


def one_by_one(loaded: LoadedModel, continuation: Continuation) -> Likelihood:
    """Return the likelihood token by token, each from a forward pass of its own."""
    total, is_greedy = 0.0, True
    told = list(continuation.context)
    for token in continuation.tokens:
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([told])).logits[0, -1].double()
        total += float(logits[token] - torch.logsumexp(logits, dim=0))
        is_greedy &= int(logits.argmax()) == token
        told.append(token)
    return Likelihood(log_probability=total, is_greedy=is_greedy)


def test_a_batch_of_unlike_lengths_gives_what_a_plain_loop_gives(loaded: LoadedModel) -> None:
    tokens = torch.randint(4, 300, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    asked = [
        Continuation(
            context=tuple(tokens[start : start + before]), tokens=tuple(tokens[start + 50 : start + 50 + after])
        )
        for start, (before, after) in enumerate([(1, 1), (30, 2), (3, 17), (12, 1), (1, 40), (30, 2)])
    ]
    greedy = tokens[:5]
    for _ in range(3):
        with torch.inference_mode():
            greedy.append(int(loaded.model(input_ids=torch.tensor([greedy])).logits[0, -1].argmax()))
    asked.append(Continuation(context=tuple(greedy[:5]), tokens=tuple(greedy[5:])))
    found = likelihoods(loaded, asked)
    expected = [one_by_one(loaded, each) for each in asked]
    assert [each.is_greedy for each in found] == [each.is_greedy for each in expected]
    assert found[-1].is_greedy
    torch.testing.assert_close(
        torch.tensor([each.log_probability for each in found]),
        torch.tensor([each.log_probability for each in expected]),
        rtol=1e-5,
        atol=1e-4,
    )


def test_room_for_few_logits_changes_nothing(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Continuation(context=(5,) * n, tokens=(7, 8 + n)) for n in range(1, 9)]
    at_once = likelihoods(loaded, asked)
    monkeypatch.setattr(likelihood, "_MOST_LOGITS", 1)
    alone = likelihoods(loaded, asked)
    assert [round(each.log_probability, 3) for each in alone] == [round(each.log_probability, 3) for each in at_once]


def test_what_has_no_context_or_nothing_to_follow_it_is_refused(loaded: LoadedModel) -> None:
    for context, tokens in [((), (5,)), ((5,), ())]:
        with pytest.raises(ValueError, match="at least one token"):
            likelihoods(loaded, [Continuation(context=context, tokens=tokens)])


def test_logits_that_are_not_finite_are_reported(loaded: LoadedModel) -> None:
    handle = loaded.model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: logits * float("nan")
    )
    with pytest.raises(FloatingPointError, match="not finite"):
        likelihoods(loaded, [Continuation(context=(5,), tokens=(6,))])
    handle.remove()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30),
    n_tokens=st.integers(1, 10**7),
)
def test_every_row_is_in_one_batch(lengths: list[tuple[int, int]], n_tokens: int) -> None:
    asked = [Continuation(context=(1,) * before, tokens=(1,) * after) for before, after in lengths]
    batches = list(likelihood._batches(asked, n_tokens=n_tokens))
    assert sorted(row for rows in batches for row in rows) == list(range(len(asked)))
    assert all(rows for rows in batches)
