"""Files and folders appear all at once or not at all, replace only what they may, and go through no link."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evovlm import files as output_folder
from evovlm.errors import OutputError, OutputExists
from evovlm.files import (
    check_space,
    explained,
    leads_outside,
    leftovers,
    new_file,
    new_folder,
    read_foreign,
    write_file,
    write_new_file,
)


def model_folder(folder: Path, *, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_when_the_work_is_done(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    with new_folder(out) as partial:
        assert partial.parent == out.parent
        (partial / "config.json").write_text("new")
        assert not out.exists()
    assert names(out) == ["config.json"]
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_nothing_not_even_new_parents(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "deep" / "er" / "out") as partial:
            (partial / "further").mkdir()
            (partial / "further" / "half").write_text("")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_a_model_folder_is_replaced_only_on_request_and_only_at_the_end(tmp_path: Path) -> None:
    out = model_folder(tmp_path / "out")
    with pytest.raises(OutputExists, match="exists already"), new_folder(out):
        pass
    with new_folder(out, overwrite=True) as partial:
        assert (out / "config.json").read_text() == "old"
        (partial / "config.json").write_text("new")
    assert names(out) == ["config.json"]
    assert names(tmp_path) == ["out"]
    assert (out / "config.json").read_text() == "new"


def test_a_failure_keeps_the_model_that_was_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = model_folder(tmp_path / "out")
    real = Path.rename

    def refuse_the_second(path: Path, target: Path) -> Path:
        if path.name == ".out.partial":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_second)
    with pytest.raises(OutputError, match="Input/output error"), new_folder(out, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert names(tmp_path) == ["out"]
    assert (out / "config.json").read_text() == "old"


def test_what_is_not_a_model_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(model_folder(tmp_path / "model"))
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    before = names(tmp_path)
    for name, match in (("notes", "no.* model folder"), ("file", "no.* model folder"), ("link", "link")):
        with pytest.raises(OutputExists, match=match), new_folder(tmp_path / name, overwrite=True):
            pass
    with pytest.raises(OutputExists), new_folder(tmp_path / "dangling"):
        pass
    assert names(tmp_path) == before


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_folder(out) as partial:
        (partial / "config.json").write_text("first")
        with pytest.raises(OutputError, match="another process is writing"), new_folder(out):
            pass
        assert (partial / "config.json").read_text() == "first"
    assert names(out) == ["config.json"]


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputExists), new_folder(out):
        out.mkdir()
    assert names(tmp_path) == ["out"]
    assert names(out) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from evovlm.files import new_folder
with new_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_a_hidden_folder_that_the_next_one_takes_over(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out"])
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".out.partial"]
    with new_folder(tmp_path / "out") as partial:
        assert not (partial / "half").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


def test_a_process_killed_while_it_replaced_a_model_loses_none(tmp_path: Path) -> None:
    model_folder(tmp_path / ".out.replaced")
    with pytest.raises(OutputExists), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    model_folder(tmp_path / ".out.replaced")
    with new_folder(tmp_path / "out", overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["config.json"]


def test_without_locks_a_folder_that_may_be_in_use_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output_folder.fcntl, "flock", refuse)
    with new_folder(tmp_path / "out") as partial:
        (partial / "half").write_text("")
        with pytest.raises(OutputError, match=r"Remove it if no process is"), new_folder(tmp_path / "out"):
            pass
        assert names(partial) == [".evovlm-lock", "half"]
    assert names(tmp_path / "out") == ["half"]


@pytest.mark.parametrize(
    ("number", "match"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EFBIG, "--max-shard-size"),
        (errno.EACCES, r"cannot be written: Permission denied \(somewhere\)"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOTDIR, r"is not a folder \(somewhere\)"),
        (errno.EIO, "cannot be written: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(number: int, match: str) -> None:
    with pytest.raises(OutputError, match=rf"(?s)^out: .*{match}"), explained(Path("out")):
        raise OSError(number, os.strerror(number), "somewhere")


def test_a_target_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not a folder"), new_folder(tmp_path / "file" / "deep" / "out"):
        pass
    assert names(tmp_path) == ["file"]


def test_too_little_space_is_reported_in_numbers(tmp_path: Path) -> None:
    check_space(tmp_path / "out", tmp_path, needed_bytes=1)
    with pytest.raises(OutputError, match=r"GB free, and 1000000\.00 GB are needed"):
        check_space(tmp_path / "out", tmp_path, needed_bytes=10**15)


def test_a_file_is_replaced_whole_and_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    write_file(tmp_path / "file", "二")
    assert not (tmp_path / "file").is_symlink()
    write_file(tmp_path / "file", b"\0")
    assert (tmp_path / "file").read_bytes() == b"\0"
    assert (tmp_path / "victim").read_text() == "precious"
    assert names(tmp_path) == ["file", "victim"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_what_appears_meanwhile(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        # As file systems without hard links answer.
        monkeypatch.setattr(os, "link", refuse)
    write_new_file(tmp_path / "first", "first")
    assert (tmp_path / "first").read_text() == "first"
    with pytest.raises(OutputExists, match="not overwritten"), new_file(tmp_path / "second"):
        (tmp_path / "second").write_text("theirs")
    with pytest.raises(OutputExists):
        write_new_file(tmp_path / "second", "second")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(OutputExists):
        write_new_file(tmp_path / "dangling", "third")
    assert (tmp_path / "second").read_text() == "theirs"
    assert names(tmp_path) == ["dangling", "first", "second"]


def test_a_file_takes_the_longest_name_that_there_is(tmp_path: Path) -> None:
    name = "二" * 85
    write_file(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    with pytest.raises(OutputError, match="the name is too long"):
        write_file(tmp_path / (name + "二"), "text")
    assert names(tmp_path) == [name]


def test_what_a_killed_process_left_of_a_file_is_known_by_its_name(tmp_path: Path) -> None:
    for name in (".best.yaml.0123456789abcdef.partial", "best.yaml.partial", ".best.yaml.partial", "mine.partial"):
        (tmp_path / name).touch()
    assert [(path.name, name) for path, name in leftovers(tmp_path)] == [
        (".best.yaml.0123456789abcdef.partial", "best.yaml")
    ]


def test_a_link_may_point_inside_the_folder_and_into_the_blobs_of_the_same_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name" / "snapshots" / "revision"
    folder.mkdir(parents=True)
    for blobs in (folder.parent.parent / "blobs", tmp_path / "models--org--other" / "blobs"):
        blobs.mkdir(parents=True)
        (blobs / "blob").touch()
    (folder / "own").touch()
    for to, outside in (
        ("own", False),
        ("../../blobs/blob", False),
        ("../../../models--org--other/blobs/blob", True),
        ("../../refs", True),
        ("/etc/hostname", True),
    ):
        (folder / "link").symlink_to(to)
        assert leads_outside(folder / "link", folder) is outside
        (folder / "link").unlink()
    assert not leads_outside(folder / "own", folder)
    assert leads_outside(folder / "../own", folder)


def test_a_foreign_file_is_read_only_if_it_is_regular_and_of_bounded_size(tmp_path: Path) -> None:
    file, pipe, link = tmp_path / "file", tmp_path / "pipe", tmp_path / "zero"
    file.write_bytes(b"content")
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    assert read_foreign(file, limit_bytes=7) == b"content"
    with pytest.raises(OSError, match="has 7 bytes, more than the 6 allowed"):
        read_foreign(file, limit_bytes=6)
    for odd in (pipe, link, tmp_path):
        with pytest.raises(OSError, match=r"not a file|Is a directory"):
            read_foreign(odd, limit_bytes=100)
