"""Every command that writes: whole or not at all, one sentence where it cannot, and never through a link."""

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Command
from tests.marks import quick_and_slow

PATH = """\
format: 1
kind: layer_path
host: MODELS/base
sources: {base: MODELS/base, ja: MODELS/ja}
scale_target: stream
path: [[base, 0, 1.0], [ja, 1, 1.0], [base, 1, 1.0]]
"""


@pytest.fixture(scope="module")
def sources(models: Path, problems: Path, finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: a config, a finished run, recipes, pickled weights, predictions."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(finished_once, folder, dirs_exist_ok=True)
    (folder / "path.yaml").write_text(PATH.replace("MODELS", str(models)))
    pickled = shutil.copytree(models / "ja", folder / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(models / "ja" / "model.safetensors"), pickled / "pytorch_model.bin")
    row = {"task": "word_problems_ja", "id": "a", "question": "?", "references": ["3"], "text": "3", "tags": []}
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    for name, link in (("base", models / "base"), ("problems.jsonl", problems)):
        (folder / name).symlink_to(link)
    return folder


INIT = ("init", "llm", "--base", "zoo:base", "--source", "zoo:math-a", "--source", "zoo:ja")
# What a command is given besides the sources' names, which stand here in braces; OUT is what it writes.
QUICK: Mapping[str, tuple[str, ...]] = {
    "init": (*INIT, "--task", "word_problems_ja", "--out", "OUT"),
    "show --svg": ("show", "{path.yaml}", "--svg", "OUT"),
    "export": ("export", "{run}", "--pick", "best", "--out", "OUT"),
    "export --format optuna": ("export", "{run}", "--format", "optuna", "--out", "OUT"),
    "grade --save": ("grade", "{answers.jsonl}", "--save", "OUT"),
    "convert": ("convert", "{pickled}", "--out", "OUT"),
    "merge": ("merge", "{run/best.yaml}", "--out", "OUT"),
    "evolve --checkpoint": ("evolve", "{search.yaml}", "--out", "{run}", "--resume", "--checkpoint", "OUT"),
    "evolve": ("evolve", "{search.yaml}", "--out", "OUT"),
    "score --save": ("score", "{base}", "-t", "word_problems_ja", "--device", "cpu", "--limit", "1", "--save", "OUT"),
    "demo": ("demo", "--quick", "--only", "evollm", "--out", "OUT"),
    "report": ("report", "{run}", "--out", "OUT"),
    "watch": ("watch", "{run}", "--out", "OUT"),
}
THOROUGH: Mapping[str, tuple[str, ...]] = {
    "report --figures": ("report", "{run}", "--figures", "OUT"),
    "zoo build": ("zoo", "build", "--out", "OUT"),
}
WRITING = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in THOROUGH)]


def words(name: str, *, out: Path, sources: Path) -> list[str]:
    command = {**QUICK, **THOROUGH}[name]
    return [str(out) if word == "OUT" else str(sources / word[1:-1]) if word[0] == "{" else word for word in command]


def left(folder: Path) -> list[str]:
    """Return what is in a folder, but for the empty lock that a run's folder keeps."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def call(*command: str) -> int:
    return subprocess.run(command, capture_output=True).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB without space for another byte, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        pytest.skip("no tmpfs can be mounted here")
    try:
        (folder / "filler").write_bytes(bytes(1 << 20))
        yield folder
    finally:
        # Lazily: SQLite may still hold a file that it could not write.
        assert call("umount", "--lazy", str(folder)) == 0


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(name: str, evovlm: Command, sources: Path, disk: Path) -> None:
    done = evovlm(*words(name, out=disk / "out", sources=sources))
    assert (done.code, done.out) == (2, ""), done
    assert str(disk / "out") in done.err
    assert "disk" in done.err
    assert "\n    " in done.err
    assert left(disk) == ["filler"]


@pytest.mark.parametrize("name", WRITING)
def test_a_read_only_disk_is_one_sentence(name: str, evovlm: Command, sources: Path, disk: Path) -> None:
    (disk / "filler").unlink()
    assert call("mount", "-o", "remount,ro", str(disk)) == 0
    done = evovlm(*words(name, out=disk / "out", sources=sources))
    assert (done.code, done.out) == (2, ""), done
    assert f"{disk / 'out'}" in done.err
    assert "Read-only file system" in done.err


@pytest.mark.parametrize("under", ["file", "n" * 300])
@pytest.mark.parametrize("name", quick_and_slow(WRITING, quick=4))
def test_a_target_that_cannot_be_is_one_sentence(
    name: str, under: str, evovlm: Command, sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out" if under == "file" else tmp_path / under
    done = evovlm(*words(name, out=out, sources=sources))
    assert (done.code, done.out) == (2, ""), done
    assert done.err.count("error: ") == 1
    assert str(out)[:200] in done.err
    assert left(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Have the system refuse files of more bytes, as a full disk does, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows_of(journal: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_disk_that_is_full_in_the_middle_of_a_search_leaves_a_run_that_continues(
    evovlm: Command, config: Path, finished_once: Path, tmp_path: Path
) -> None:
    whole, run = finished_once / "run" / "journal.jsonl", tmp_path / "run"
    with largest_file(whole.stat().st_size * 3 // 5):
        stopped = evovlm("evolve", config, "--out", run)
    assert (stopped.code, stopped.out) == (2, ""), stopped
    assert f"{run / 'journal.jsonl'}: the disk does not take a file of this size" in stopped.err
    assert "--resume" in stopped.err
    content = (run / "journal.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert 1 < content.count(b"\n") < 9
    assert evovlm("evolve", config, "--out", run, "--resume").code == 0
    assert rows_of(run / "journal.jsonl") == rows_of(whole)


RUN_FILES = (".lock", "journal.jsonl", "config.yaml", "best.yaml", "mean.yaml", "result.json", "report.html")


@pytest.mark.parametrize("name", quick_and_slow(RUN_FILES, quick=3))
@pytest.mark.usefixtures("undrawn")
def test_no_file_of_a_run_is_written_through_a_link(
    name: str, evovlm: Command, finished: Path, config: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    # A larger budget has the search append to its journal and write everything else anew.
    text = config.read_text().replace("candidates: 8", "candidates: 12")
    config.write_text(text)
    victim.write_bytes((finished / name).read_bytes() if name == "journal.jsonl" else b"precious")
    before = victim.read_bytes()
    (finished / name).unlink(missing_ok=True)
    (finished / name).symlink_to(victim)
    for folder in ("scores", "tensorboard"):
        (tmp_path / folder).mkdir()
        (finished / folder).symlink_to(tmp_path / folder)
    done = evovlm("evolve", config, "--out", finished, "--resume")
    assert done.code == (2 if name in (".lock", "journal.jsonl") else 0), done
    if done.code:
        assert "a link is in the way" in done.err
    elif name != "report.html":
        assert not (finished / name).is_symlink()
    evovlm("report", finished)
    assert evovlm("report", finished, "--score").code == 2
    assert victim.read_bytes() == before
    assert left(tmp_path / "scores") == left(tmp_path / "tensorboard") == []


def test_names_that_could_be_foreseen_are_not_written_through(
    evovlm: Command, finished: Path, sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("precious")
    for name in ("report.html.partial", ".report.html.partial"):
        (finished / name).symlink_to(tmp_path / "victim")
    assert evovlm("report", finished).code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    (tmp_path / ".out.partial").symlink_to(tmp_path / "mine")
    refused = evovlm(*words("merge", out=tmp_path / "out", sources=sources))
    assert (refused.code, ".out.partial is a link" in refused.err) == (2, True)
    assert (tmp_path / "victim").read_text() == "precious"
    assert left(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("name", ["1-base.1-word_problems_ja.batches.jsonl", ".lock", "summary.json"])
def test_no_saved_answers_are_written_through_a_link(
    name: str, evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    saved, victim = tmp_path / "saved", tmp_path / "victim"
    command = ("score", models / "base", "-t", "word_problems_ja", "--data", f"word_problems_ja={problems}")
    options = ("--device", "cpu", "--limit", "1", "--save", saved)
    saved.mkdir()
    victim.write_text("")
    (saved / name).symlink_to(victim)
    done = evovlm(*command, *options, "--resume")
    assert done.code == 2, done
    assert victim.read_text() == ""
