"""Bars, durations, and the display of a search."""

import io
import itertools
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from evovlm.cli.progress import ScoreProgress, SearchProgress, WriteProgress
from evovlm.cli.rendering import as_typed, duration, echo_json, from_typed, in_lines, spark_line, without_controls
from evovlm.evaluation.batches import AnswerProgress
from evovlm.recipes.candidate import Evaluation, Failure, Outcome
from evovlm.runs.folder.entries import Entry
from evovlm.search.loop import Generation
from evovlm.texts.languages import speaker

GOOD = Evaluation(scores={}, fitness=0.5, seconds={}, tokens=0)
BAD = Failure(kind="not_finite", reason="the merged weights are not finite")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (9600, "2:40 h")]
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_of_a_search_speaks_japanese_too() -> None:
    printed = io.StringIO()
    follow(SearchProgress(title="探索", console=Console(file=printed), say=speaker("ja")), (GOOD, BAD, GOOD), done=1)
    assert printed.getvalue().splitlines()[1:] == [
        "探索：1/4 候補を評価済み、続きから再開します",
        "探索：世代 1/2、最良 50.0、平均 50.0、失敗 1 件、残り約 0 秒",
        "探索：世代 2/2、最良 50.0、平均 50.0、失敗 1 件、残り約 0 秒",
    ]
    assert duration(185, say=speaker("ja")) == "3 分 05 秒"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_a_curve_fits_its_width_and_ends_with_the_last_value(values: list[float]) -> None:
    line = spark_line(values, low=0.0, high=1.0, width=40)
    assert 1 <= len(line) <= 40
    assert line[-1] == spark_line(values[-1:], low=0.0, high=1.0)
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_a_flat_curve_is_drawn_too() -> None:
    assert spark_line([0.2, 0.2], low=0.2, high=0.2) == "▁▁"


def follow(progress: SearchProgress, outcomes: tuple[Outcome, ...], *, done: int = 0) -> None:
    """Let the display follow a search of two generations of two candidates."""
    progress.started(candidates=4, generations=2, done=done, warnings=("rope_theta [differs]",))
    for number in range(2):
        told = outcomes[2 * number : 2 * number + 2]
        for offset, outcome in enumerate(told):
            progress.evaluated(
                Entry(
                    kind="candidate",
                    index=2 * number + offset,
                    generation=number,
                    genome=np.zeros(1),
                    recipe_id="0" * 12,
                    outcome=outcome,
                )
            )
        progress.generation_ended(Generation(number=number, proposals=(), outcomes=told, mean=np.zeros(1)))
    progress.close()


def test_off_a_terminal_lines_are_plain_and_replayed_generations_silent() -> None:
    printed = io.StringIO()
    follow(SearchProgress(title="demo", console=Console(file=printed)), (GOOD, BAD, GOOD, GOOD), done=2)
    assert printed.getvalue().splitlines() == [
        "warning: rope_theta [differs]",
        "demo: resuming after 2 of 4 candidates",
        "demo: generation 2/2, best 50.0, mean 50.0, 1 failed",
    ]


def test_on_a_terminal_the_display_is_live_with_generation_best_mean_and_time_left() -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=True, width=120)
    progress = SearchProgress(title="demo", console=console)
    progress.started(candidates=4, generations=2, done=0, warnings=())
    entry = Entry(kind="candidate", index=0, generation=0, genome=np.zeros(1), recipe_id="0" * 12, outcome=GOOD)
    progress.evaluated(entry)
    progress.generation_ended(Generation(number=0, proposals=(), outcomes=(GOOD,), mean=np.zeros(1)))
    progress.close()
    text = printed.getvalue()
    for part in ("demo", "1/4", "generation 1/2", "best 50.0", "mean 50.0", "left"):
        assert part in text


def test_searches_that_share_their_warnings_show_each_once() -> None:
    printed = io.StringIO()
    warned: set[str] = set()
    for title in ("random", "evolved"):
        follow(SearchProgress(title=title, console=Console(file=printed), warned=warned), (GOOD, BAD, GOOD, GOOD))
    assert printed.getvalue().count("warning: rope_theta [differs]") == 1


@pytest.mark.parametrize("text", ["short", "", "two\nlines", f"next:\n  evovlm score {'m' * 90} --task x"])
def test_a_text_that_fits_or_is_a_command_stays(text: str) -> None:
    assert in_lines(text, width=40) == text


def test_a_sentence_about_a_command_is_wrapped() -> None:
    assert in_lines(f"unknown task {'x' * 30}. `evovlm tasks` lists them.", width=40).count("\n") == 2


def test_a_number_stays_with_its_japanese_unit() -> None:
    assert in_lines("最大 512 トークン、 5 つ", width=12).split("\n") == ["最大", "512 トークン、", "5 つ"]


@given(st.lists(st.text("ab漢字", min_size=1, max_size=30), min_size=1, max_size=40), st.integers(20, 80))
def test_a_long_text_ends_its_lines_at_blanks_before_the_width(words: list[str], width: int) -> None:
    lines = in_lines("  " + " ".join(words), width=width).split("\n")
    assert " ".join(line.removeprefix("  ") for line in lines) == " ".join(words)
    assert all(line.startswith("  ") for line in lines)
    assert all(cell_len(line) < width or " " not in line.strip() for line in lines)


TITLE = "evovlm, equal weights, 3 of 4"


def shown_lines(printed: io.StringIO) -> list[str]:
    """Return the lines that were drawn on a terminal, without colours and movements of the cursor."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    return [line for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("width", [80, 60, 200])
def test_a_search_at_any_width_keeps_its_name_count_bar_and_time_left(width: int) -> None:
    printed = io.StringIO()
    progress = SearchProgress(title=TITLE, console=Console(file=printed, force_terminal=True, width=width))
    progress.started(candidates=1000, generations=100, done=0, warnings=())
    for number in range(12):
        outcome = BAD if number == 3 else GOOD
        entry = Entry(
            kind="candidate", index=number, generation=0, genome=np.zeros(1), recipe_id="0" * 12, outcome=outcome
        )
        progress.evaluated(entry)
    progress.generation_ended(Generation(number=0, proposals=(), outcomes=(GOOD,), mean=np.zeros(1)))
    progress.close()
    last = shown_lines(printed)[-1]
    assert cell_len(last.rstrip()) <= width
    assert ("equal weights, 3 of 4" if width > 60 else "3 of 4") in last
    assert "12/1000" in last
    assert "━" in last
    assert "left" in last
    assert ("mean 50.0" in last) is (width == 200)


def test_of_a_long_path_the_end_is_shown_and_full_width_characters_count_twice() -> None:
    printed = io.StringIO()
    progress = ScoreProgress(console=Console(file=printed, force_terminal=True, width=80), clock=iter_clock(5.0))
    progress.asking(model="/data/models/日本語/とても長いモデルの名前/checkpoint-1200, 2 of 4", task="word_problems_ja")
    progress.answered(AnswerProgress(done=200, total=400, asked=200, tokens=9000, seconds=100.0))
    progress.close()
    last = shown_lines(printed)[-1]
    assert cell_len(last.rstrip()) <= 80
    assert "2 of 4, word_problems_ja" in last
    assert "200/400," in last
    assert "about 1:40 min left" in last


def iter_clock(step_s: float) -> Callable[[], float]:
    """Return a clock that goes on by `step_s` at every look."""
    seconds = itertools.count(0.0, step_s)
    return lambda: next(seconds)


def write_slowly(console: Console, *, seconds: float, pieces: int) -> None:
    """Let the display follow the writing of 4 tensors in equal pieces, spread over this number of seconds."""
    now = 0.0
    progress = WriteProgress(title="writing out", console=console, clock=lambda: now)
    for piece in range(1, pieces + 1):
        now = seconds * piece / pieces
        done = 8_000_000_000 * piece // pieces
        progress.on_progress(
            done_bytes=done, total_bytes=8_000_000_000, tensors_done=4 * piece // pieces, tensors_total=4
        )
    progress.close()


@pytest.mark.parametrize("terminal", [False, True])
def test_writing_that_is_soon_over_shows_no_bar(terminal: bool) -> None:
    printed = io.StringIO()
    write_slowly(Console(file=printed, force_terminal=terminal), seconds=0.6, pieces=100)
    shown = [line.strip() for line in shown_lines(printed)]
    assert shown == (["⠋ writing out: opening models"] * len(shown) if terminal else [])


def test_off_a_terminal_writing_prints_a_line_now_and_then() -> None:
    printed = io.StringIO()
    write_slowly(Console(file=printed), seconds=31, pieces=124)
    assert printed.getvalue().splitlines() == [
        "writing out: 0/4 tensors, 0.26 of 8.00 GB, 0.26 GB/s, about 30 s left",
        "writing out: 1/4 tensors, 2.84 of 8.00 GB, 0.26 GB/s, about 20 s left",
        "writing out: 2/4 tensors, 5.42 of 8.00 GB, 0.26 GB/s, about 10 s left",
        "writing out: 4/4 tensors, 8.00 of 8.00 GB, 0.26 GB/s, waiting for the disk",
    ]


def test_on_a_terminal_writing_is_a_bar_with_speed_and_time_left() -> None:
    printed = io.StringIO()
    write_slowly(Console(file=printed, force_terminal=True, width=120), seconds=32, pieces=128)
    for part in ("writing out", "/4 tensors", "of 8.00 GB", "0.25 GB/s", "waiting for the disk"):
        assert part in printed.getvalue()


def test_a_first_piece_after_a_long_opening_shows_no_speed() -> None:
    printed = io.StringIO()
    write_slowly(Console(file=printed), seconds=100, pieces=1)
    assert printed.getvalue().splitlines() == ["writing out: 4/4 tensors, 8.00 of 8.00 GB, waiting for the disk"]


def asked(n: int) -> AnswerProgress:
    """Return the progress of a scoring of 40 questions after this number of them, with 10 tokens and 2 s each."""
    return AnswerProgress(done=n, total=40, asked=n, tokens=10 * n, seconds=2.0 * n)


def test_a_scoring_shows_questions_speed_and_what_is_left() -> None:
    printed, now = io.StringIO(), [0.0]
    progress = ScoreProgress(console=Console(file=printed), clock=lambda: now[0])
    progress.loading(model="zoo:ja")
    progress.asking(model="zoo:ja", task="[mgsm]")
    progress.answered(asked(1))
    assert printed.getvalue() == ""
    now[0] = 5.0
    progress.answered(asked(10))
    now[0] = 6.0
    progress.answered(asked(20))
    now[0] = 60.0
    progress.answered(asked(40))
    progress.close()
    assert printed.getvalue().splitlines() == [
        "zoo:ja, [mgsm]: 10/40 questions, 5 tokens/s, about 1:00 min left",
        "zoo:ja, [mgsm]: 40/40 questions, 5 tokens/s",
    ]


def test_a_scoring_s_first_answers_show_no_speed() -> None:
    printed, now = io.StringIO(), [0.0]
    progress = ScoreProgress(console=Console(file=printed), clock=lambda: now[0])
    progress.asking(model="zoo:ja", task="[mgsm]")
    for n, seconds in ((3, 5.0), (4, 16.0)):
        now[0] = seconds
        progress.answered(asked(n))
    assert printed.getvalue().splitlines() == [
        "zoo:ja, [mgsm]: 3/40 questions",
        "zoo:ja, [mgsm]: 4/40 questions, 5 tokens/s, about 1:12 min left",
    ]


def test_a_scoring_draws_a_bar_on_a_terminal() -> None:
    printed, now = io.StringIO(), [0.0]
    console = Console(file=printed, force_terminal=True, width=160)
    progress = ScoreProgress(console=console, clock=lambda: now[0])
    progress.asking(model="zoo:ja", task="[mgsm]")
    now[0] = 3.0
    progress.answered(asked(10))
    progress.answered(asked(20))
    progress.close()
    assert "[mgsm]" in printed.getvalue()
    assert "20/40 questions" in printed.getvalue()


@given(st.text())
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    printed = io.StringIO()
    dangerous = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"} - {"\n", "\t"}
    shown = without_controls(text)
    assert not dangerous & set(shown)
    assert shown == "".join(char for char in text if char in shown)
    with redirect_stdout(printed):
        echo_json({"answer": text})
    row = printed.getvalue().removesuffix("\n")
    assert not dangerous & set(row)
    assert json.loads(row) == {"answer": text}


def test_escape_sequences_are_cut_and_lines_and_tabs_kept() -> None:
    assert without_controls("a\x1b[31m\tb\n\x9bc\u202ed") == "a[31m\tb\ncd"


@pytest.mark.parametrize("text", ["質問: {input}\n答え:", "chat", "a\\\\b"])
def test_a_prompt_is_typed_in_one_line(text: str) -> None:
    assert "\n" not in as_typed(text)
    assert from_typed(as_typed(text)) == text
