"""Kills commands at random moments and takes their disk away, and prints a table of what still held.

`make torture` runs it with 50 kills, outside of CI. It works on pico models in a temporary folder. Small disks are
tmpfs, which only root can mount; without root these checks are reported as not done.

    python -m tests.torture --kills 50 --seed 1
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import typer
import yaml

from evovlm.seeding import generator
from tests.pico import pico_llm
from tests.runs.conftest import RIGHT, TASK, racing_document, search_document, task_section, write_tasks
from tests.runs.path_searches import hybrid_document, path_document, write_problems

REPOSITORY = Path(__file__).parent.parent
PATIENCE_S = 1200.0
LONGEST_ORPHAN_S = 60.0
SMALL_DISK, LARGE_DISK = "size=24k", "size=64m"
UNTIMED = {"seconds", "wall_s", "answer_seconds", "peak_memory_bytes"}


class Row(NamedTuple):
    """A line of the table: a check, how often it was done, how often it held, and the seconds it took."""

    check: str
    done: int
    held: int
    seconds: float
    note: str = ""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    err: str

    @property
    def refused(self) -> bool:
        """Whether it ended as an error that the user can fix does."""
        return self.code == 2 and "Traceback" not in self.err


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A command that writes `out` (appended to `words` with `flag`); with `resumes`, run again it continues.

    What `replaces` an older file may be run twice at once: the later one's file stays.
    """

    name: str
    words: tuple[str, ...]
    flag: str = "--out"
    resumes: bool = True
    replaces: bool = False

    def command(self, out: Path) -> list[str]:
        """Return the arguments that write, or continue, `out`."""
        return [*self.words, self.flag, str(out), *(["--resume"] if self.resumes and out.is_dir() else [])]


def start(
    words: list[str], *, cwd: Path = REPOSITORY, settings: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a command in a session of its own; every process uses one thread unless `settings` say otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "evovlm", *words],
        cwd=cwd,
        env={**environment, **(settings or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> Ended:
    """Wait for the end of a command."""
    _, err = process.communicate(timeout=PATIENCE_S)
    return Ended(process.returncode, err)


def run(words: list[str], **options: object) -> Ended:
    """Run a command to its end."""
    return finish(start(words, **options))  # type: ignore[arg-type]


def killed(words: list[str], *, after_s: float) -> bool:
    """Kill a command with SIGKILL after some seconds; return whether its workers ended soon after it.

    Only the process itself is killed, as by `kill -9 PID` or by a system without memory.
    """
    process = start(words)
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            # Workers keep the other end open as long as they run.
            process.communicate(timeout=LONGEST_ORPHAN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return False
    return True


def content(out: Path) -> dict[str, object]:
    """Return what a result holds, by file, without times and without what depends on its place."""
    if out.is_file():
        return {out.name: out.read_bytes()}
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in (".lock", "report.html")]
    return {str(path.relative_to(out)): _untimed(path, out) for path in files}


def _untimed(path: Path, out: Path) -> object:
    text = path.read_bytes().replace(os.fsencode(out), b"OUT")
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in text.splitlines()]
    if path.name in ("result.json", "summary.json"):
        return _without_times(json.loads(text))
    return text


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in UNTIMED}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def leftover(folder: Path) -> list[str]:
    """Return the names of unfinished files and folders."""
    return [path.name for path in folder.rglob(".*") if path.name.endswith((".partial", ".replaced"))]


def prepare(folder: Path) -> tuple[Work, ...]:
    """Make models, tasks and configs in the folder; return the commands."""
    models = folder / "models"
    base = pico_llm(models / "base", dtype=torch.bfloat16)
    pico_llm(models / "math", like=base, seed=1, drift=0.1, dtype=torch.bfloat16)
    pico_llm(models / "ja", like=base, seed=2, drift=0.1, dtype=torch.bfloat16)
    for name, count in (("problems", 4), ("sums", 12)):
        rows = [{"id": f"{name}{n}", "question": f"{n} pears, {n % 5} eaten?", **RIGHT} for n in range(count)]
        (models / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = write_problems(folder)
    write_tasks(models, data="problems.jsonl")
    plain = search_document(models)
    two = [task_section(models), task_section(models, name=str(models / f"{TASK}_ja.yaml"))]
    documents = {
        "evolve": plain,
        "evolve, race": racing_document(models),
        "evolve, front": plain | {"tasks": two, "objective": {"pareto": True}, "optimizer": {"kind": "random"}},
        "evolve, path": path_document(models, problems),
        "evolve, hybrid": hybrid_document(models, problems),
    }
    works = []
    for number, (name, document) in enumerate(documents.items()):
        config = folder / f"search{number}.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        works.append(Work(name=name, words=("evolve", str(config))))
    works.insert(1, Work(name="evolve, 2 workers", words=(*works[0].words, "--workers", "2")))
    return (*works, *_other_works(folder, models))


def _other_works(folder: Path, models: Path) -> tuple[Work, ...]:
    """Return merge, score and report; the report's run is made here."""
    finished = folder / "finished"
    expect(run(["evolve", str(folder / "search0.yaml"), "--out", str(finished)]))
    shutil.copy(finished / "best.yaml", folder / "recipe.yaml")
    task = ("--task", str(models / f"{TASK}.yaml"), "--split", "search")
    return (
        Work(name="merge", words=("merge", str(folder / "recipe.yaml")), resumes=False),
        Work(name="score", words=("score", str(models / "math"), str(models / "ja"), *task), flag="--save"),
        Work(name="report", words=("report", str(finished)), resumes=False, replaces=True),
    )


def expect(ended: Ended) -> None:
    """Stop the whole script where a command that should work does not."""
    if ended.code != 0:
        raise SystemExit(f"a command failed with exit code {ended.code}:\n{ended.err}")


def result_of(work: Work, folder: Path) -> Path:
    """Return the path that a command writes."""
    return folder / ("out.html" if work.name == "report" else "out")


def torture(work: Work, folder: Path, *, kills: int, seed: int) -> tuple[Row, Path]:
    """Kill a command at random moments, then let it end; it has to write what it writes undisturbed."""
    began = time.monotonic()
    whole = result_of(work, _made(folder / "whole"))
    expect(run(work.command(whole)))
    duration, moments = time.monotonic() - began, generator(f"moments of death, {work.name}", seed)
    out, done, held = result_of(work, _made(folder / "killed")), 0, 0
    for _ in range(kills):
        # Most of the start is imports, so that half of the kills come in the second half.
        after_s = duration * float(np.sqrt(moments.uniform(0.0, 1.0)))
        if out.exists() and (not work.resumes or _finished(out)):
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        done += 1
        ended = killed(work.command(out), after_s=after_s)
        # What does not resume is there whole, or not at all.
        held += ended and (work.resumes or not out.exists() or content(out) == content(whole))
    if out.exists() and not work.resumes:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    last = run(work.command(out))
    same = last.code == 0 and content(out) == content(whole)
    note = "" if same else f"DIFFERENT RESULT (exit {last.code}): {_difference(content(out), content(whole))} "
    note += " ".join(leftover(folder / "killed")) if work.resumes else ""
    return Row(f"kill -9: {work.name}", done, held if same else 0, time.monotonic() - began, note), whole


def _difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    return ", ".join(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))


def _finished(out: Path) -> bool:
    return (out / "result.json").is_file() or (out / "summary.json").is_file()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mount a small tmpfs on the folder; yield what mounts it again with other options. Raises OSError without root."""

    def mount(*arguments: str) -> None:
        words = ["mount", *arguments, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())

    mount("-t", "tmpfs", "-o", SMALL_DISK, "tmpfs")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=False)  # noqa: S607


def without_disk(work: Work, whole: Path, folder: Path) -> Iterator[Row]:
    """Let a command fill a disk, then meet a read-only one, then work on a large one."""
    began = time.monotonic()
    disk = _made(folder / "disk")
    try:
        with small_disk(disk) as remount:
            # A run gets as far as its journal; the other commands write less.
            (disk / "filling").write_bytes(b"x" * (16_000 if work.name.startswith("evolve") else 20_000))
            out = result_of(work, disk)
            full = run(work.command(out))
            kept = work.resumes or not out.exists()
            yield Row(f"full disk: {work.name}", 1, int(full.refused and kept), time.monotonic() - began, _why(full))
            began = time.monotonic()
            remount(f"ro,{LARGE_DISK}")
            fixed = run(work.command(out))
            kept = not leftover(disk)
            note = _why(fixed) or " ".join(leftover(disk))
            yield Row(f"read-only disk: {work.name}", 1, int(fixed.refused), time.monotonic() - began, note)
            began = time.monotonic()
            remount(f"rw,{LARGE_DISK}")
            ended = run(work.command(out))
            same = ended.code == 0 and content(out) == content(whole)
            note = "" if same else f"exit {ended.code} {ended.err[-300:]}"
            yield Row(f"after both: {work.name}", 1, int(same), time.monotonic() - began, note)
    except PermissionError as error:
        yield Row(f"full disk: {work.name}", 0, 0, 0.0, f"not done ({error})")


def _why(ended: Ended) -> str:
    return "" if ended.refused else f"exit {ended.code} {ended.err[-300:]}"


def two_at_once(work: Work, whole: Path, folder: Path) -> Row:
    """Start a command twice at once: one of the two works, or both where they replace; the result is the usual one."""
    began = time.monotonic()
    out = result_of(work, _made(folder / "two"))
    both = [start(work.command(out)) for _ in range(2)]
    ended = sorted(finish(process) for process in both)
    codes = [each.code for each in ended]
    expected = codes == [0, 0] if work.replaces else codes == [0, 2] and ended[1].refused
    held = expected and content(out) == content(whole)
    return Row(f"two processes: {work.name}", 1, int(held), time.monotonic() - began, "" if held else f"{codes}")


def elsewhere(work: Work, whole: Path, folder: Path) -> Row:
    """Vary threads, hash seeds and working folders: the result stays the same."""
    began = time.monotonic()
    varied = [
        ({"OMP_NUM_THREADS": "2"}, REPOSITORY),
        ({"PYTHONHASHSEED": "0"}, REPOSITORY),
        ({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"}, folder),
    ]
    held = 0
    for number, (settings, cwd) in enumerate(varied):
        out = result_of(work, _made(folder / f"varied{number}"))
        ended = run(work.command(out), settings=settings, cwd=cwd)
        held += ended.code == 0 and content(out) == content(whole)
    return Row(f"threads, hash seeds, folders: {work.name}", len(varied), held, time.monotonic() - began)


def main() -> int:
    """Run everything, print the table, and return 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many processes are killed, over all commands")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        typer.echo(f"{row.check:48s} {row.held}/{row.done}  {row.seconds:6.1f} s  {row.note}", err=True)

    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        works = prepare(folder)
        for number, work in enumerate(works):
            own = folder / f"work{number}"
            kills = chosen.kills // len(works) + (number < chosen.kills % len(works))
            row, whole = torture(work, own, kills=kills, seed=chosen.seed)
            note(row)
            for each in without_disk(work, whole, own):
                note(each)
            note(two_at_once(work, whole, own))
            note(elsewhere(work, whole, own))
    typer.echo("| check | done | held | seconds |\n|---|---|---|---|")
    for row in rows:
        typer.echo(f"| {row.check} | {row.done} | {row.held} | {row.seconds:.0f} |")
    return int(any(row.held < row.done for row in rows))


if __name__ == "__main__":
    sys.exit(main())
