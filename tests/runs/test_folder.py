"""Who may write into a run's folder, and what has changed between two configs."""

import subprocess
import sys
from pathlib import Path

import pytest

from evovlm.errors import OutputExists, RunError, RunMismatch
from evovlm.files import write_file
from evovlm.runs.folder.layout import changed_keys, check_config, check_folder, locked


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "left", [[], [".lock"], [".lock", "config.yaml", "config.yaml.partial", "journal.jsonl.partial"]]
)
def test_a_folder_without_a_journal_and_without_anything_to_lose_may_be_used(
    tmp_path: Path, resume: bool, left: list[str]
) -> None:
    check_folder(tmp_path / "new", resume=resume)
    for name in left:
        (tmp_path / name).touch()
    check_folder(tmp_path, resume=resume)


def test_a_run_that_is_there_needs_resume(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").touch()
    check_folder(tmp_path, resume=True)
    with pytest.raises(OutputExists, match="--resume"):
        check_folder(tmp_path, resume=False)


def test_what_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputExists, match="not empty"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(RunMismatch, match="no journal"):
        check_folder(tmp_path, resume=True)
    for resume in (False, True):
        with pytest.raises(OutputExists, match="is a file"):
            check_folder(tmp_path / "thesis.txt", resume=resume)


def test_a_second_process_is_kept_out_as_long_as_the_first_one_runs(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from evovlm.runs.folder.layout import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with pytest.raises(RunError, match="another process"), locked(tmp_path / "run"):
            pass
        first.kill()
    with locked(tmp_path / "run"):
        pass


def test_every_changed_key_is_named_with_both_values() -> None:
    before = {"seed": 1, "merge": {"base": None, "sources": {"a": "x"}}, "tasks": [{"limit": 5, "name": "t"}], "old": 1}
    now = {"seed": 2, "merge": {"base": "b", "sources": {"a": "y"}}, "tasks": [{"limit": 6, "name": "t"}], "new": [1]}
    assert changed_keys(before, now) == (
        "seed: 1 -> 2",
        "merge.base: none -> b",
        "merge.sources.a: x -> y",
        "tasks[0].limit: 5 -> 6",
        "old: 1 -> (absent)",
        "new: (absent) -> [1]",
    )
    assert changed_keys(before, before) == ()
    with pytest.raises(RunMismatch, match=r"(?s)seed: 1 -> 2.*tasks\[0\].limit: 5 -> 6.*another folder"):
        check_config(Path("run"), recorded=before, given=now, raised=())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    write_file(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "second \ud800")
    assert path.read_text(encoding="utf-8") == "first"
    write_file(path, "二")
    assert path.read_text(encoding="utf-8") == "二"
