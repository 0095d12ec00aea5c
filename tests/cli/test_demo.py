"""`evovlm demo` on a pico zoo: what it prints, what it writes, how it resumes, what it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from evovlm import assets
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.documents import load_recipe
from evovlm.runs.config.kinds import load_config
from evovlm.runs.demo import PIPELINES
from tests.cli.conftest import Command
from tests.pico_zoo import pico_zoo


@pytest.fixture(scope="module", autouse=True)
def _zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = pico_zoo(tmp_path_factory.mktemp("wheel") / "_assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "_IN_WHEEL", folder)
        yield


@pytest.mark.slow
def test_stdout_holds_both_tables_as_json_and_nothing_else(evovlm: Command, tmp_path: Path) -> None:
    told = evovlm("demo", "--quick", "--out", tmp_path / "demo", "--json")
    assert told.code == 0, told.err
    document = json.loads(told.out)
    assert list(document) == ["evollm", "evovlm"]
    for name, sources, keys in (
        ("evollm", ["math-a", "math-b", "ja"], ["score", "interval", "ungated", "japanese"]),
        ("evovlm", ["vlm", "ja"], ["score", "interval", "ungated", "japanese", "culture"]),
    ):
        assert list(document[name]) == ["sources", "uniform", "random", "evolved"]
        assert list(document[name]["sources"]) == sources
        rows = [*document[name]["sources"].values(), *(document[name][row] for row in ("uniform", "random", "evolved"))]
        assert all(list(row) == keys for row in rows)
    assert "Traceback" not in told.err

    again = evovlm("demo", "--quick", "--out", tmp_path / "demo", "--only", "evollm")
    assert again.code == 0, again.err
    for text in (
        "equal-weights merge",
        "random search",
        "evolved merge",
        "tried 26",
        "on the search split",
        "question",
    ):
        assert text in again.out
    next_commands = [line.split("#")[0].split() for line in again.out.splitlines() if line.startswith("  evovlm ")]
    assert [command[1] for command in next_commands] == ["show", "score", "merge", "evolve"]
    load_recipe(Path(next_commands[2][2]))
    load_config(Path(next_commands[3][2]))
    page = Path(again.out.splitlines()[-1].strip())
    assert page == tmp_path / "demo/evollm/evolved/report.html"
    for text in ("Report on EvoLLM: a Japanese math LLM", "equal weights"):
        assert text in page.read_text(encoding="utf-8")
    assert evovlm(*next_commands[0][1:]).code == 0

    japanese = evovlm("demo", "--quick", "--out", tmp_path / "demo", "--only", "evollm", "--lang", "ja")
    assert japanese.code == 0, japanese.err
    lines = japanese.out.splitlines()
    for text in ("EvoLLM：日本語の数学 LLM", "均等マージ", "ランダム探索", "進化モデル", "次のステップ："):
        assert text in japanese.out
    assert not [line for line in lines if re.search("[a-z]{3,} [a-z]{3,} [a-z]{3,}", line) and "evovlm " not in line]
    shown = [line for line in lines if str(tmp_path) not in line]
    assert max(map(cell_len, shown)) <= 80
    assert '<html lang="ja">' in page.read_text(encoding="utf-8")

    other = evovlm("demo", "--quick", "--out", tmp_path / "demo", "--only", "evollm", "--seed", "1")
    assert other.code == 2
    assert "seed: 0 -> 1" in other.err


def test_ctrl_c_says_which_command_resumes(evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "evaluate", interrupted)
    out = tmp_path / "a demo"
    stopped = evovlm("demo", "--quick", "--seed", "3", "--out", out, "--only", "evollm", "--json")
    assert stopped.code == 130
    assert stopped.out == ""
    assert f"evovlm demo --quick --seed 3 --out '{out}' --only evollm --json" in stopped.err


def test_two_sizes_at_once_are_refused(evovlm: Command) -> None:
    refused = evovlm("demo", "--full", "--quick")
    assert (refused.code, refused.err) == (2, "error: --full and --quick: choose one.\n")


def test_a_pipeline_that_does_not_exist_is_refused(evovlm: Command) -> None:
    refused = evovlm("demo", "--only", "evogpt")
    assert refused.code == 2
    assert all(name in refused.err for name in PIPELINES)
