"""The embedded tokenizer and language model: made by sentencepiece, loaded by transformers, the same twice."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evovlm.zoo.corpus import ABILITY, Example, ancestor_examples
from evovlm.zoo.language_models import Progress, fit, new_language_model, save_language_model, train_tokenizer

TEXTS = (
    "問題: 花子はりんごを12個持っています。\n答え:",
    "12+7=19個。次に19-5=14個。答えは14個です。",
    "Problem: Hanako has 12 apples.\nAnswer: 12+7=19. The answer is 19.",
    "全角の１２３も、一字ずつ",
    "an unseen sign: 鱻",
)


def examples(count: int, seed: int = 0) -> list[Example]:
    return list(
        ancestor_examples(np.random.default_rng(seed), count=count, muddle=ABILITY, withheld=lambda _problem: False)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer((text for pair in examples(800) for text in pair), folder=path, pieces=1000)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS[:3])
def test_the_fast_tokenizer_splits_as_sentencepiece_does(
    text: str, folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for line in text.split("\n"):
        assert tokenizer(line, add_special_tokens=False).input_ids == processor.encode(line)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_with_numbers_in_plain_digits(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    assert back == text.replace("\n", " ").translate(str.maketrans("１２３", "123"))


def test_every_digit_is_a_separate_piece(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("120+35=155個").input_ids)
    assert [piece for piece in pieces if piece.strip("▁").isdigit()] == list("12035155")
    assert all(
        sum(character.isdigit() for character in piece) <= 1 for piece in tokenizer.get_vocab() if "0x" not in piece
    )


def trained(tokenizer: PreTrainedTokenizerFast, *, muon: bool) -> tuple[torch.nn.Module, list[float]]:
    model = new_language_model(tokenizer, seed=3)
    losses: list[Progress] = []
    torch.manual_seed(5)
    fit(
        model,
        tokenizer,
        examples=lambda count: examples(min(count, 120)),
        steps=4,
        tokens_per_step=256,
        learning_rate=3e-3,
        muon=muon,
        on_progress=losses.append,
    )
    assert [each.step for each in losses] == list(range(1, 5))
    return model, [each.loss for each in losses]


@pytest.mark.parametrize("muon", [True, False])
def test_training_lowers_the_loss_and_is_the_same_twice(muon: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    model, losses = trained(tokenizer, muon=muon)
    again, others = trained(tokenizer, muon=muon)
    assert losses == others
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_saved_model_is_bfloat16_and_loads_without_this_package(
    folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = new_language_model(tokenizer, seed=3)
    save_language_model(model, tokenizer_folder=folder, folder=tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    weight = model.model.layers[2].mlp.up_proj.weight
    assert torch.equal(loaded.model.layers[2].mlp.up_proj.weight, weight.to(torch.bfloat16))
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("3個").input_ids == tokenizer("3個").input_ids
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 8e6
