"""`evovlm grade FILE`: score saved predictions, and compare two files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.allow_code import AllowCode, announce_allowed
from evovlm.cli.completion import complete_extractors, complete_gates, complete_metrics
from evovlm.cli.judge import JudgeCalls, JudgeModel, JudgeUrl, judge_choice
from evovlm.cli.rendering import echo_json
from evovlm.cli.task_options import Reasoning

if TYPE_CHECKING:
    from evovlm.evaluation.answers import ScoredTask
    from evovlm.evaluation.comparison import Comparison

_COLUMN = "The column with {}; default: the first of the usual names that exists."


def grade(
    files: Annotated[
        list[Path], typer.Argument(help="Predictions: JSONL, JSON, CSV, TSV, Parquet; two files are compared.")
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            "-m",
            help="A metric (docs/scoring.md lists them), such as accuracy or rouge_l_ja, or evaluate:NAME_OR_PATH; "
            "default: the task's own.",
            autocompletion=complete_metrics,
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor", help="How accuracy reads numbers: robust or paper.", autocompletion=complete_extractors
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            help="The language gate: script, fasttext or none; default: the task's own.",
            autocompletion=complete_gates,
        ),
    ] = None,
    reasoning: Reasoning = None,
    clip_model: Annotated[
        str | None,
        typer.Option("--clip-model", help="For clip_score: an open_clip model, such as ViT-B-32:laion2b_s34b_b79k."),
    ] = None,
    judge: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_calls: JudgeCalls = None,
    prediction_column: Annotated[str | None, typer.Option(help=_COLUMN.format("the answers"))] = None,
    reference_column: Annotated[str | None, typer.Option(help=_COLUMN.format("the references"))] = None,
    id_column: Annotated[str | None, typer.Option(help=_COLUMN.format("the ids") + " Without it: row numbers.")] = None,
    image_column: Annotated[str | None, typer.Option(help=_COLUMN.format("the pictures' paths"))] = None,
    choices_column: Annotated[str | None, typer.Option(help=_COLUMN.format("the options of a question"))] = None,
    rows_at: Annotated[str | None, typer.Option(help="Where the rows are in a JSON object.")] = None,
    device: Annotated[str, typer.Option("--device", help="For clip_score: auto, cpu, cuda, cuda:1, xpu, mps")] = "auto",
    save: Annotated[Path | None, typer.Option("--save", help="Write every answer's score to this JSONL file.")] = None,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score saved predictions, without a model; compare two files."""
    from evovlm.cli.progress import Waiting
    from evovlm.errors import ConfigError
    from evovlm.evaluation.grading import ScoringChoice, compare_graded
    from evovlm.evaluation.grading import grade as grade_predictions
    from evovlm.evaluation.predictions import Columns, prediction_lines, read_predictions
    from evovlm.files import refuse_existing, write_new_file
    from evovlm.runs.scores.saved import saved_scorings
    from evovlm.tasks.metrics.library_metric import PREFIX, metric_code
    from evovlm.thoughts import parse_reasoning

    if len(files) > 2 or (save is not None and len(files) > 1):
        what = "--save keeps the scores of" if len(files) == 2 else "grade takes"
        raise ConfigError(f"{len(files)} files were named; {what} one file{'' if len(files) == 2 else ', or two'}.")
    if save is not None:
        refuse_existing(save)
    if metric is not None and metric.startswith(PREFIX):
        announce_allowed(metric_code(metric), allow_code=allow_code)
    choice = ScoringChoice(
        metric=metric,
        extractor=extractor,
        gate=gate,
        clip_model=clip_model,
        reasoning=None if reasoning is None else parse_reasoning(reasoning),
        judge=judge_choice(judge, url=judge_url, calls=judge_calls),
    )
    columns = Columns(
        prediction=prediction_column,
        reference=reference_column,
        id=id_column,
        image=image_column,
        choices=choices_column,
    )
    graded = []
    for file in files:
        with Waiting(f"scoring {file.name}"):
            read = read_predictions(file, columns=columns, rows_at=rows_at, needs_references=metric != "clip_score")
            saved = saved_scorings(file)
            graded.append(grade_predictions(read, choice, saved=saved, device=device, allow_code=allow_code))
    compared = compare_graded(*graded) if len(graded) == 2 else {}
    if save is not None:
        write_new_file(save, "".join(map(prediction_lines, graded[0])))
    if as_json:
        echo_json(_as_json(files, graded, compared))
        return
    _print(files, graded, compared)


def _as_json(
    files: list[Path], graded: "list[tuple[ScoredTask, ...]]", compared: "dict[str, Comparison]"
) -> dict[str, object]:
    from dataclasses import asdict

    from evovlm.evaluation.answers import figures

    def row(each: "ScoredTask") -> dict[str, object]:
        reasons = {reason: len(ids) for reason, ids in each.unscored.items()}
        measured = {"task": each.name or None, "measured": each.measured}
        return {**measured, **figures(each.score, metric=each.metric), "reasons": reasons}

    return {
        "files": [
            {"file": str(file), "tasks": [row(each) for each in of_file]}
            for file, of_file in zip(files, graded, strict=True)
        ],
        "comparisons": [{"task": task or None, **asdict(found)} for task, found in compared.items()],
    }


def _print(files: list[Path], graded: "list[tuple[ScoredTask, ...]]", compared: "dict[str, Comparison]") -> None:
    from rich.console import Console

    from evovlm.cli.tables import comparison_text, print_line, print_scores, thinking_lines, unscored_lines

    console = Console()
    tasks = dict.fromkeys((each.name, each.measured) for of_file in graded for each in of_file)
    for task, measured in tasks:
        chosen = [
            (file.name, each)
            for file, of_file in zip(files, graded, strict=True)
            for each in of_file
            if (each.name, each.measured) == (task, measured)
        ]
        title = f"{task}: {measured}" if task else measured
        print_scores(console, title, [(name, each.score) for name, each in chosen], of="file")
        for name, each in chosen:
            for line in (*thinking_lines(each.score), *unscored_lines(each.unscored, n=len(each.answers))):
                print_line(console, f"{name}: {line}")
    for task, found in compared.items():
        what = comparison_text(files[0].name, files[1].name, found)
        print_line(console, f"{task}: {what}" if task else what)
