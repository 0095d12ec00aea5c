"""The command line as a person meets it: every command alike, colours, widths, waiting, completion."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from evovlm.cli.completion import joined_words
from evovlm.cli.progress import SearchProgress, Waiting
from evovlm.cli.tables import print_scores
from evovlm.recipes.candidate import TaskScore
from tests.cli.conftest import TASK, Command, commands
from tests.marks import quick_and_slow

PATIENCE_S = 60.0
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")
SCORE = TaskScore(score=0.5, ungated=0.5, japanese=1.0, per_sample=(0.0, 1.0), n=2)
RUN = "import sys; sys.argv[0] = 'evovlm'; from evovlm.cli.app import main; main()"


@pytest.mark.parametrize("words", commands())
def test_every_command_explains_itself_and_prints_json(evovlm: Command, words: str) -> None:
    shown = evovlm(*words.split(), "--help")
    assert (shown.code, shown.err) == (0, "")
    # What is followed has no result.
    assert ("--json" in shown.out) is (words != "watch")
    command = commands()[words]
    assert command.help
    for parameter in command.params:
        # typer's arguments keep their help in a record of the command.
        assert getattr(parameter, "help", None) or parameter.name == "help", f"{words}: {parameter.name}"


def on_terminal(*arguments: str | Path, program: str = RUN, **environment: str) -> str:
    """Run the real command on a terminal of its own, and return all that it wrote there."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )
    os.close(terminal)
    written = b""
    try:
        while chunk := _read(main):
            written += chunk
        assert process.wait(timeout=PATIENCE_S) == 0
    finally:
        process.kill()
        os.close(main)
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        # On Linux, reading fails when no process has the terminal open.
        return b""


def test_no_color_is_honoured_and_a_pipe_gets_plain_text() -> None:
    plain = subprocess.run([sys.executable, "-c", RUN, "methods"], capture_output=True, text=True, check=True)
    assert "\x1b" not in plain.stdout
    assert "dare_ties" in plain.stdout
    coloured, without = on_terminal("zoo"), on_terminal("zoo", NO_COLOR="1")
    assert "\x1b[" in coloured
    assert COLOUR.search(without) is None
    assert "zoo:math-a" in without


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [("methods --json", 0, "dare_ties"), ("show none.yaml", 2, "none.yaml"), ("tasks x", 2, "x")],
)
def test_the_command_ends_with_its_code_and_all_that_it_said(words: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "evovlm", *words.split()]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (ended.returncode, said in ended.stdout + ended.stderr) == (code, True)
    assert ended.stdout.endswith("\n") is (code == 0)


def test_output_that_cannot_be_written_is_reported() -> None:
    command = [sys.executable, "-m", "evovlm", "methods", "--json"]
    with Path("/dev/full").open("w") as full:
        refused = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=PATIENCE_S)
    assert refused.returncode == 2
    assert refused.stderr.decode().startswith("error: the output cannot be written (No space left on device)")
    assert b"Traceback" not in refused.stderr


@pytest.mark.parametrize("words", quick_and_slow(["methods", "optimizers", "spaces", "tasks", "zoo"], quick=1))
def test_at_80_columns_tables_wrap_and_lose_nothing(words: str) -> None:
    narrow, wide = (
        set(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_terminal(words, COLUMNS=columns)).split())
        for columns in ("80", "200")
    )
    rules = {word for word in wide if set(word) <= {"─"}}
    assert wide - rules <= narrow


def test_full_width_names_stand_in_line_with_others() -> None:
    out = io.StringIO()
    names = ["models/日本語モデル", "models/ja"]
    print_scores(Console(file=out, width=100), "word_problems_ja", [(name, SCORE) for name in names], of="model")
    lines = [line for line in out.getvalue().splitlines() if "50.0" in line]
    assert len(lines) == 2
    assert len({cell_len(line[: line.index("50.0")]) for line in lines}) == 1


def test_waiting_shows_at_once_on_a_terminal_and_is_a_line_elsewhere_if_it_is_long() -> None:
    shown, quick, piped = io.StringIO(), io.StringIO(), io.StringIO()
    with Waiting("loading [red]m[/red]", console=Console(file=shown, force_terminal=True, width=80)):
        assert "loading [red]m[/red]" in shown.getvalue()
    with Waiting("loading", console=Console(file=quick), silent_s=PATIENCE_S):
        pass
    with Waiting("loading [m]\x1b", console=Console(file=piped), silent_s=0.0):
        until = time.monotonic() + PATIENCE_S
        while not piped.getvalue():
            assert time.monotonic() < until
            time.sleep(0.01)
    assert (quick.getvalue(), piped.getvalue()) == ("", "loading [m]\n")


STOP_AT_IMPORTS = """
import os, sys
from importlib.abc import MetaPathFinder

class Stop(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("datasets", "matplotlib", "numba", "scipy", "torch", "transformers"):
            os.write(2, f"importing {name}".encode())
            os._exit(0)

sys.meta_path.insert(0, Stop())
sys.argv[0] = "evovlm"
from evovlm.cli.app import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        "ask {models}/base 1と2で?",
        "check {config}",
        "demo --only evollm",
        "doctor",
        "evolve {config} --out {tmp}/new",
        "evolve {config} --out {tmp}/new --dry-run",
        "merge {finished}/best.yaml --out {tmp}/new",
        "rate {finished}",
        "report {finished} --score",
        "report {finished} --figures {tmp}/new",
        "score {models}/base --task word_problems_ja --prompt ja-alpaca-cot --limit 1",
        "zoo build --out {tmp}/new",
    ],
)
def test_a_command_says_what_it_does_before_an_import_of_seconds(
    words: str, models: Path, config: Path, finished: Path, tmp_path: Path
) -> None:
    given = [word.format(models=models, config=config, finished=finished, tmp=tmp_path) for word in words.split()]
    shown, importing, _ = on_terminal(*given, program=STOP_AT_IMPORTS).rpartition("importing ")
    # A display erases its line before it draws it again, and at its end.
    assert re.search("[\u2801-\u28ff](\x1b\\[0m)? \\w+", shown.rpartition("\x1b[2K")[2]), shown
    assert importing


def test_a_search_waits_for_its_models_and_then_shows_itself() -> None:
    out = io.StringIO()
    progress = SearchProgress(title="mine", console=Console(file=out, force_terminal=True, width=100))
    assert "mine: opening models and tasks" in out.getvalue()
    progress.started(candidates=4, generations=1, done=0, warnings=())
    progress.close()
    assert "0/4" in out.getvalue()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("evovlm do", {"doctor"}),
        ("evovlm score zoo:ja --task word_", {"word_problems_ja", "word_problems_en"}),
        ("evovlm score zoo:ja --task mgsm_ja,emoji_j", {"mgsm_ja,emoji_ja"}),
        ("evovlm score zoo:m", {"zoo:math-a", "zoo:math-b"}),
        ("evovlm ask zoo:ja hello --prompt ja-", {"ja-alpaca-cot", "ja-shisa-vqa"}),
        ("evovlm init llm --method dare_", {"dare_linear", "dare_ties"}),
        ("evovlm init llm --source ja=zoo:j", {"ja=zoo:ja"}),
        ("evovlm grade a.jsonl --metric rouge_l", {"rouge_l_ja"}),
        ("evovlm grade a.jsonl --gate f", {"fasttext"}),
        ("evovlm grade a.jsonl --extractor r", {"robust"}),
        ("evovlm report run --lang e", {"en"}),
        ("evovlm watch run --lang j", {"ja"}),
        ("evovlm score zoo:ja --split s", {"search"}),
        ("evovlm export run --pick k", {"knee"}),
    ],
)
def test_a_shell_is_offered_what_there_is(
    evovlm: Command, line: str, offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in completing(line).items():
        monkeypatch.setenv(name, value)
    shown = evovlm()
    assert set(shown.out.split()) == offered, shown.err


def completing(line: str) -> dict[str, str]:
    """Return the environment in which bash asks for completions of a line."""
    last = len(line.split()) - 1
    return {"_EVOVLM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(last)}


def test_the_tasks_of_a_run_are_offered_as_picks(
    evovlm: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in completing(f"evovlm export {finished} --pick t").items():
        monkeypatch.setenv(name, value)
    assert evovlm().out.split() == [f"task={TASK}"]


@pytest.mark.parametrize(
    ("broken", "offered"),
    [
        (["score", "zoo", ":", "m"], {"math-a", "math-b"}),
        (["score", "zoo", ":"], {"base", "ja", "math-a", "math-b", "vlm", "lora-ja", "lora-math-a", "lora-math-b"}),
        (["score", "zoo", ":", "ja", "zoo", ":", "m"], {"math-a", "math-b"}),
        (["score", "zoo", ":", "ja", "--task", "emoji_j"], {"emoji_ja"}),
        (["score", "zoo", ":", "ja", "--task", "=", "emoji_j"], {"emoji_ja"}),
        (["init", "--source", "ja", "=", "zoo", ":", "j"], {"ja"}),
        (["init", "--source", "=", "ja", "=", "zoo", ":", "j"], {"ja"}),
        (["init", "--base", "zoo", ":", "base", "--source", "zoo", ":", "j"], {"ja"}),
    ],
)
def test_bash_which_breaks_words_at_colons_gets_the_rest_of_the_word(
    evovlm: Command, broken: list[str], offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_EVOVLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["evovlm", *broken]))
    monkeypatch.setenv("COMP_CWORD", str(len(broken)))
    shown = evovlm()
    assert set(shown.out.split()) == offered, shown.err


def test_a_new_word_after_a_colon_is_not_joined() -> None:
    assert joined_words(["score", "zoo", ":", ""], 3) == (["score", "zoo:", ""], 2, "")
    assert joined_words(["score", "zoo", ":", "--task"], 3) == (["score", "zoo:", "--task"], 2, "")


def test_a_real_process_completes_too() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", RUN], env={**os.environ, **completing("evovlm do")}, capture_output=True, text=True
    )
    assert shown.stdout.split() == ["doctor"], shown.stderr


def test_completing_never_loads_torch() -> None:
    code = (
        "import sys; from evovlm.cli import completion as c;"
        "[getattr(c, name)('') for name in dir(c) if name.startswith('complete_') and name not in "
        "('complete_picks', 'complete_in_bash')]; print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_the_shell_s_script_is_shown(tmp_path: Path) -> None:
    # The shell that runs the tests does not matter.
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", RUN, "--show-completion", "bash"], env=environment, capture_output=True, text=True
    )
    assert "_EVOVLM_COMPLETE=complete_bash" in shown.stdout, shown
