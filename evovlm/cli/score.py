"""`evovlm score MODEL... --task T`: score models on one or more tasks, and compare them."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.allow_code import AllowCode, announce_allowed
from evovlm.cli.completion import (
    complete_extractors,
    complete_forms,
    complete_gates,
    complete_metrics,
    complete_models,
    complete_prompts,
    complete_splits,
    complete_tables,
    complete_tasks,
)
from evovlm.cli.engine import EngineOption, TensorParallelOption
from evovlm.cli.judge import JudgeCalls, JudgeModel, JudgeUrl, judge_choice
from evovlm.cli.rendering import echo, echo_json, from_typed
from evovlm.cli.task_options import (
    ChatTemplate,
    DrawSeed,
    Reasoning,
    Repeats,
    System,
    Temperature,
    TemplateArgs,
    ThinkEnd,
    TopK,
    TopP,
)

if TYPE_CHECKING:
    from evovlm.evaluation.answers import ScoredTask
    from evovlm.recipes.candidate import TaskScore
    from evovlm.runs.scores.score_models import Scores


def score(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A folder, a hub id, zoo:NAME, or a recipe (YAML); or several.", autocompletion=complete_models
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            "-t",
            help="A task (`evovlm tasks` lists them), a task file, or lm_eval:NAME_OR_FILE[#METRIC[,FILTER]] "
            "(lm-evaluation-harness; its task files need --allow-code); T1,T2 for several, or repeat.",
            autocompletion=complete_tasks,
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="report or search.", autocompletion=complete_splits)] = "report",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, max=10**9, help="Score only the first samples of each task, this many."),
    ] = None,
    decoding: Annotated[
        str | None,
        typer.Option(
            "--decoding",
            help='search (the shorter decoding of searches), or a JSON object as in a config: {"beams": 1}.',
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            max=10**6,
            help="The most tokens of an answer, thoughts included; default: the task's own.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="A prompt in place of the tasks' own: chat, a name, or a template with {input} and <image> (and \\n).",
            parser=from_typed,
            autocompletion=complete_prompts,
        ),
    ] = None,
    apply_chat_template: ChatTemplate = False,
    system: System = None,
    chat_template_args: TemplateArgs = None,
    reasoning: Reasoning = None,
    think_end_token: ThinkEnd = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: DrawSeed = None,
    repeats: Repeats = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="A metric, instead of the tasks' own (docs/scoring.md lists them).",
            autocompletion=complete_metrics,
        ),
    ] = None,
    judge: JudgeModel = None,
    judge_url: JudgeUrl = None,
    judge_calls: JudgeCalls = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor",
            help="How accuracy reads numbers, instead of the tasks' own: robust or paper.",
            autocompletion=complete_extractors,
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            help="The language gate, instead of the tasks' own: script, fasttext or none.",
            autocompletion=complete_gates,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A task's data, a file or folder (or hub:ID@REVISION, cached:); may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cpu:bfloat16, cuda, cuda:1, xpu, mps")] = "auto",
    engine: EngineOption = None,
    tensor_parallel: TensorParallelOption = None,
    save: Annotated[Path | None, typer.Option("--save", help="Keep every answer in this new folder, as JSONL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the scoring in the folder of --save.")] = False,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="Print one table of models and tasks: md, csv or latex.",
            autocompletion=complete_tables,
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            help="Also write the result in the form of another project: hub (DIR is the model's folder; "
            "`push` sends it), llm-jp-eval-mm or lm-eval; may be repeated.",
            autocompletion=complete_forms,
        ),
    ] = None,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score models on tasks, and compare each pair of models."""
    from evovlm.cli.progress import ScoreProgress, Waiting
    from evovlm.cli.signals import stopping
    from evovlm.cli.task_options import chat_settings, decoding_changes, described, prompt_setting, reasoning_setting
    from evovlm.errors import ConfigError
    from evovlm.tasks.catalogue import check_task_names, code_of_tasks, data_notes_of
    from evovlm.tasks.task import TaskSettings, parse_split

    if as_json and table is not None:
        raise ConfigError("--json and --table are both printed on the standard output. Leave one of them out.")
    if resume and save is None:
        raise ConfigError("--resume needs the folder of the scoring to continue. Name it with --save.")
    with Waiting("reading tasks"):
        names = _task_names(task)
        places = _places(data or [], names)
        settings = TaskSettings(
            prompt=prompt_setting(prompt, apply_chat_template=apply_chat_template),
            chat=chat_settings(system, chat_template_args),
            decoding=decoding_changes(
                decoding,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
                repeats=repeats,
            ),
            extractor=extractor,
            metric=metric,
            gate=gate,
            reasoning=reasoning_setting(reasoning, think_end_token),
        )
        # A wrong name is reported before torch is loaded, which takes seconds.
        check_task_names(names, split=parse_split(split), **settings)
        from evovlm.runs.scores.forms import parse_targets, write_form
        from evovlm.runs.scores.score_models import ask_models
        from evovlm.runs.scores.score_table import check_table_form, score_table

        targets = parse_targets(write or [])
        if table is not None:
            check_table_form(table)

    announce_allowed(code_of_tasks(names), allow_code=allow_code)
    for note in data_notes_of(names, split=parse_split(split), data=places):
        echo(f"note: {note}", err=True)

    progress = ScoreProgress()
    stopped = "\nstopped; a scoring with --save DIR can be continued." if save is None else None
    with stopping(stopped, flag="--resume"), closing(progress):
        scores = ask_models(
            models,
            tasks=names,
            split=parse_split(split),
            limit=limit,
            judge=judge_choice(judge, url=judge_url, calls=judge_calls),
            data=places,
            device=device,
            engine=engine or "auto",
            tensor_parallel=tensor_parallel or 1,
            save=save,
            resume=resume,
            allow_code=allow_code,
            observer=progress,
            **settings,
        )
    for form, folder in targets.items():
        for file in write_form(scores, form=form, folder=folder, split=parse_split(split)):
            echo(f"wrote {file}", err=True)
    if as_json:
        echo_json(scores.as_json())
        return
    if table is not None:
        echo(score_table(scores, form=table, split=parse_split(split)).removesuffix("\n"), whole=True)
        return
    _print(scores, split=split, how=described(settings))


def _task_names(given: list[str]) -> list[str]:
    from evovlm.errors import ConfigError
    from evovlm.tasks.harness_name import is_harness_name

    names: list[str] = []
    for text in given:
        # In the name of a harness task a comma has another meaning, and file names may contain one.
        whole = is_harness_name(text) or Path(text).exists()
        names += [text] if whole else [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--task: no task was named. `evovlm tasks` lists them.")
    if len(set(names)) < len(names):
        raise ConfigError(f"--task: a task is named twice ({', '.join(names)}). Name each task once.")
    return names


def _places(data: list[str], tasks: list[str]) -> dict[str, Path]:
    from evovlm.errors import TaskError

    places: dict[str, Path] = {}
    for entry in data:
        name, sign, path = entry.partition("=")
        if not sign or name not in tasks:
            raise TaskError(f"--data {entry}: write TASK=PATH with a task that is scored ({', '.join(tasks)}).")
        places[name] = Path(path)
    return places


def _print(scores: "Scores", *, split: str, how: str) -> None:
    from rich.console import Console

    from evovlm.cli.tables import comparison_text, print_line, print_low, print_scores, thinking_lines, unscored_lines
    from evovlm.tasks.task import absence_lines

    console = Console()
    for place, first in enumerate(scores.models[0].tasks):
        of_models = [(model.model, model.tasks[place]) for model in scores.models]
        rows = [row for model, scored in of_models for row in _rows(model, scored)]
        print_scores(console, f"{first.name}, {split} split: {first.measured}{how}", rows, of="model")
        for model, scored in of_models:
            for line in (*thinking_lines(scored.score), *unscored_lines(scored.unscored, n=len(scored.answers))):
                print_line(console, f"{model}: {line}")
            print_low(console, scored.low, of=model)
        for line in absence_lines(f"{first.name}, {split} split", first.absent):
            print_line(console, line)
        for pair in scores.pairs:
            if pair.task == first.name:
                print_line(console, comparison_text(pair.first, pair.second, pair.comparison))


def _rows(model: str, scored: "ScoredTask") -> "list[tuple[str, TaskScore]]":
    tagged = [(f"  {tag}", found) for tag in scored.tags if (found := scored.tagged(tag)) is not None]
    return [(model, scored.score), *tagged]
