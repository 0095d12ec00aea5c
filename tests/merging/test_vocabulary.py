"""Which row stands for which token, read from the files that tokenizers come in."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.models.vocabulary import read_tokens
from tests.merging.vocabularies import read_tokenizer, write_tokenizer
from tests.pico import SPECIAL, pico_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pico_tokenizer({"image_token": "<image>"}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_rows_are_those_that_transformers_encodes_to(folder: Path) -> None:
    tokens = read_tokens(folder)
    assert tokens is not None
    assert tokens.rows == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert set(tokens.added) == {*SPECIAL, "<image>"}


def test_a_unigram_vocabulary_is_a_list(folder: Path) -> None:
    tokenizer = read_tokenizer(folder)
    ordered = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    before = read_tokens(folder)
    tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[token, -1.5] for token in ordered]}
    write_tokenizer(folder, tokenizer)
    after = read_tokens(folder)
    assert before is not None
    assert after is not None
    assert after.rows == before.rows


def trained_sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    folder.mkdir()
    (folder / "text.txt").write_text("りんごを3こ買いました。\nみかんを5こ食べました。\n" * 20, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_sentencepiece_model_is_read_with_what_was_added(tmp_path: Path) -> None:
    pieces = trained_sentencepiece(tmp_path / "model")
    n_pieces = pieces.get_piece_size()
    (tmp_path / "model" / "added_tokens.json").write_text(json.dumps({"<pad>": n_pieces}))
    decoder = {str(n_pieces + 1): {"content": "<image>", "lstrip": True, "special": False}}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    tokens = read_tokens(tmp_path / "model")
    assert tokens is not None
    assert len(tokens.rows) == n_pieces + 2
    assert all(tokens.rows[pieces.id_to_piece(row)] == row for row in range(n_pieces))
    assert set(tokens.added) == {"<unk>", "<s>", "</s>", "<pad>", "<image>"}
    assert tokens.added["<image>"]["lstrip"]
    assert not tokens.added["<image>"]["special"]


def test_a_plain_vocabulary_is_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|end|>": 2}))
    tokens = read_tokens(tmp_path)
    assert tokens is not None
    assert tokens.rows == {"a": 0, "b": 1, "<|end|>": 2}
    assert set(tokens.added) == {"<|end|>"}


def test_tokenizer_json_is_believed_first(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({"何": 0}))
    (folder / "added_tokens.json").write_text(json.dumps({"何": 1}))
    tokens = read_tokens(folder)
    assert tokens is not None
    assert tokens.rows["何"] == pico_tokenizer().convert_tokens_to_ids("何")


def test_a_folder_without_a_tokenizer_has_no_tokens(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert read_tokens(folder) is None


def test_a_tokenizer_that_was_exchanged_is_read_anew(folder: Path, tmp_path: Path) -> None:
    before = read_tokens(folder)
    pico_tokenizer().save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder / "tokenizer.json")
    after = read_tokens(folder)
    assert before is not None
    assert after is not None
    assert before.rows.keys() - after.rows.keys() == {"<image>"}


@pytest.mark.parametrize(("name", "content"), [("tokenizer.json", "{}"), ("tokenizer.model", "no pieces")])
def test_a_broken_tokenizer_is_an_error_naming_the_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BrokenCheckpoint, match=rf"{name}: cannot be read as a tokenizer"):
        read_tokens(tmp_path)
