"""What a merged model takes of its host besides the weights."""

import os
import stat
from pathlib import Path

import pytest

from evovlm.errors import BrokenCheckpoint
from evovlm.recipes.checkpoint_files import (
    CARD_FILE,
    RECIPE_FILE,
    TEXT_LIMIT_BYTES,
    copy_files,
    find_support_files,
    host_files,
    refuse_odd_files,
    support_names,
)

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
    found = host_files(host)
    assert (list(found.files), found.left_out) == (sorted(TAKEN), ())
    copy_files(found.files, folder)
    copied = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert copied == {name: f"content of {name}" for name in TAKEN}


def test_every_file_that_a_merge_writes_is_fetched_and_published() -> None:
    written = {*TAKEN, CARD_FILE, RECIPE_FILE}
    assert set(support_names([*TAKEN, *LEFT])) == written
    assert support_names(written) == sorted(written)


def cached(repository: Path, name: str, text: str) -> Path:
    """Write a file as the hub's cache holds it, and return the snapshot's folder."""
    blob, snapshot = repository / "blobs" / f"hash-of-{name}", repository / "snapshots" / ("0" * 40)
    for folder in (blob.parent, snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_text(text)
    (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_links_are_followed_inside_the_folder_and_into_the_hubs_cache(tmp_path: Path) -> None:
    host = cached(tmp_path / "models--org--name", "config.json", "{}")
    (host / "NOTICE").write_text("both")
    (host / "LICENSE").symlink_to("NOTICE")
    (tmp_path / "named").symlink_to(host)
    for number, folder in enumerate((host, tmp_path / "named")):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        copy_files(host_files(folder).files, out)
        assert {path.name: (path.read_text(), path.is_symlink()) for path in out.iterdir()} == {
            "config.json": ("{}", False),
            "LICENSE": ("both", False),
            "NOTICE": ("both", False),
        }


@pytest.mark.parametrize("to", ["../secret", "../models--org--other/blobs/secret"])
def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path, to: str) -> None:
    host = tmp_path / "host"
    (host / to).parent.mkdir(parents=True, exist_ok=True)
    host.mkdir(exist_ok=True)
    (host / to).write_text("secret")
    for name in ("notes.txt", "README.md"):
        (host / name).symlink_to(to)
    assert find_support_files(host).left_out == ("README.md", "notes.txt")
    found = host_files(host)
    assert (found.files, found.left_out) == ({}, ("notes.txt",))
    assert found.notes == ("notes.txt is left out: it is a link that leads out of the folder.",)
    (host / "secrets.json").symlink_to(to)
    with pytest.raises(BrokenCheckpoint, match=r"secrets\.json: is a link that leads out of the model's folder"):
        host_files(host)


def test_a_linked_folder_of_templates_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tool_use.jinja").write_text("secret")
    host = tmp_path / "host"
    host.mkdir()
    (host / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BrokenCheckpoint, match="leads out of the model's folder"):
        host_files(host)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "none")
    with pytest.raises(BrokenCheckpoint, match=r"tokenizer\.json: is a link to a file that does not exist"):
        host_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.model", "model.safetensors", "chat_template.jinja", "README.md"]
)
@pytest.mark.parametrize("odd", ["pipe", "folder", "socket", "device"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path, name: str, odd: str) -> None:
    path = tmp_path / name
    if odd == "pipe":
        os.mkfifo(path)
    elif odd == "folder":
        path.mkdir()
    elif odd == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BrokenCheckpoint, match=rf"{name}: cannot be read: it is a folder, a pipe or a device"):
        refuse_odd_files(tmp_path)


def test_a_huge_text_is_refused_and_huge_weights_are_not(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(TEXT_LIMIT_BYTES + 1)
    with pytest.raises(BrokenCheckpoint, match=r"tokenizer\.json: cannot be read: it has 500000001 bytes"):
        refuse_odd_files(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    refuse_odd_files(tmp_path)
