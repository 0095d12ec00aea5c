"""What a merged model takes of its host besides the weights."""

from pathlib import Path

import pytest

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.host_files import copy_host_files, host_files

TAKEN = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "qwen.tiktoken",
    "tekken.json",
    "source.spm",
    "bpe.codes",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "qformer_tokenizer/tokenizer.json",
    "qformer_tokenizer/tokenizer_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
)
LEFT = (
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "modeling_custom.py",
    "README.md",
    "recipe.yaml",
    "trainer_state.json",
    "train_results.json",
    "all_results.json",
    "adapter_config.json",
    "optimizer.pt",
    "requirements.txt",
    "checkpoint-500/config.json",
    "checkpoint-500/tokenizer_config.json",
    "original/params.json",
    ".cache/tokenizer_config.json",
    "additional_chat_templates/notes.md",
    "qformer_tokenizer/train.py",
)


def test_everything_that_loads_the_model_is_taken_and_nothing_else(tmp_path: Path) -> None:
    host, folder = tmp_path / "host", tmp_path / "out"
    for name in (*TAKEN, *LEFT):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text(f"content of {name}")
    folder.mkdir()
    assert [file.relative_to(host).as_posix() for file in host_files(host)] == sorted(TAKEN)
    copy_host_files(host, folder)
    copied = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert copied == {name: f"content of {name}" for name in TAKEN}


def test_links_are_followed_as_the_hubs_cache_needs(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    for name in ("host", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "host" / "config.json").symlink_to(tmp_path / "blob")
    copy_host_files(tmp_path / "host", tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").is_symlink()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "none")
    with pytest.raises(BrokenCheckpoint, match=r"tokenizer\.json: a link to a file that is not there"):
        host_files(tmp_path)
