"""Tokens added to a host's tokenizer encode to the rows that the merge made for them, with stock transformers."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from evovlm.merging.models.vocabulary import (
    ADDED_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    NewToken,
    extend_tokenizer,
    read_tokens,
)
from tests.merging.test_vocabulary import trained_sentencepiece
from tests.pico import pico_tokenizer

ROWS = len(pico_tokenizer())
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def new_tokens(first: int) -> list[NewToken]:
    return [
        NewToken("<|start|>", first, (), PLAIN),
        NewToken("<call>", first + 1, (), {**PLAIN, "special": False, "lstrip": True}),
    ]


def saved(folder: Path) -> Path:
    pico_tokenizer().save_pretrained(folder)
    return folder


def test_new_tokens_encode_to_their_rows_and_old_ones_as_before(tmp_path: Path) -> None:
    host = saved(tmp_path / "host")
    shutil.copytree(host, tmp_path / "out")
    extend_tokenizer(tmp_path / "out", new_tokens(ROWS))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("<|start|>百 <call>", add_special_tokens=False).input_ids == [
        ROWS,
        tokenizer.convert_tokens_to_ids("百"),
        ROWS + 1,
    ]
    text = "答えは12個です。"
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(host)(text).input_ids
    assert tokenizer.decode([ROWS, ROWS + 1], skip_special_tokens=True) == "<call>"


def test_every_file_that_lists_added_tokens_gets_them(tmp_path: Path) -> None:
    host = saved(tmp_path / "host")
    config = json.loads((host / TOKENIZER_CONFIG_FILE).read_text())
    decoder = {"3": {"content": "<pad>", **PLAIN}}
    (host / TOKENIZER_CONFIG_FILE).write_text(json.dumps({**config, "added_tokens_decoder": decoder}))
    (host / ADDED_TOKENS_FILE).write_text(json.dumps({"<pad>": 3}))
    shutil.copytree(host, tmp_path / "out")
    extend_tokenizer(tmp_path / "out", new_tokens(ROWS))
    written = json.loads((tmp_path / "out" / TOKENIZER_CONFIG_FILE).read_text())
    assert written["added_tokens_decoder"] == {
        **decoder,
        str(ROWS): {"content": "<|start|>", **PLAIN},
        str(ROWS + 1): {"content": "<call>", **PLAIN, "special": False, "lstrip": True},
    }
    added = json.loads((tmp_path / "out" / ADDED_TOKENS_FILE).read_text())
    assert added == {"<pad>": 3, "<|start|>": ROWS, "<call>": ROWS + 1}
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("<call>").input_ids[-1] == ROWS + 1


@pytest.mark.parametrize("name", [TOKENIZER_FILE, TOKENIZER_CONFIG_FILE])
def test_without_new_tokens_it_stays_the_same(tmp_path: Path, name: str) -> None:
    host = saved(tmp_path / "host")
    shutil.copytree(host, tmp_path / "out")
    extend_tokenizer(tmp_path / "out", [])
    assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((host / name).read_text())


def test_a_sentencepiece_model_gets_its_lists_beside_it(tmp_path: Path) -> None:
    pieces = trained_sentencepiece(tmp_path / "host")
    first = pieces.get_piece_size()
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "host" / TOKENIZER_CONFIG_FILE).write_text(json.dumps(config))
    shutil.copytree(tmp_path / "host", tmp_path / "out")
    extend_tokenizer(tmp_path / "out", new_tokens(first))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("りんご<|start|>みかん<call>").input_ids[-1] == first + 1
    assert tokenizer.convert_tokens_to_ids("<|start|>") == first
    tokens = read_tokens(tmp_path / "out")
    assert tokens is not None
    assert tokens.rows == tokenizer.get_vocab()
