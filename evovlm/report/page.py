"""The page as HTML: one file that loads nothing, with every text of models and data escaped."""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evovlm import __version__
from evovlm.recipes.kinds import PS
from evovlm.report.content import RIGHT_FROM, RunContent, RunsContent, Stage, TaskReport
from evovlm.report.drawing import LIGHT, Drawing, Pen, inline_svg, page_pen, style
from evovlm.report.recipe_figures import recipe_drawings, unit_text
from evovlm.report.result_figures import (
    bands_drawing,
    cost_drawing,
    model_text,
    phase_text,
    standings_drawing,
)
from evovlm.report.search_content import MOST_CANDIDATES
from evovlm.report.search_figures import percent, search_drawings
from evovlm.runs.scores.contenders import EQUAL_WEIGHTS, RANDOM, WINNER
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.texts.languages import Say, speaker
from evovlm.thoughts import NOT_FINISHED

_TEMPLATES = Path(__file__).parent / "templates"
# Control characters, except line ends and tabs, and those that turn the direction of writing: shown, never applied.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_JAPANESE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
WORDS = {
    "McNemar, exact": "test_mcnemar",
    "paired bootstrap": "test_bootstrap",
    "no picture": "unscored_picture",
    "no text": "unscored_text",
    "no number found": "unscored_number",
    "no option found": "unscored_option",
    NOT_FINISHED: "unscored_thoughts",
    "default": "default",
}
"""Words that runs record, and the keys of their texts."""
_MOST_FAILURES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureView:
    """A figure for the template."""

    drawing: Drawing
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """A stage with its figures (course, recipe, cost), and the commands that take candidates to other places."""

    stage: Stage
    pick_command: str
    optuna_command: str
    search: tuple[FigureView, ...]
    recipe: tuple[FigureView, ...]
    cost: FigureView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """A task's report with its figure, and the names of all models for people."""

    report: TaskReport
    figure: FigureView
    names: tuple[str, ...]


def run_page(content: RunContent, *, language: str, reload_s: int | None = None) -> str:
    """Return the page of a run; with `reload_s` it reloads itself after that many seconds.

    Raises ConfigError for an unknown language.
    """
    pen = page_pen(speaker(language))
    with style(pen):
        stages = tuple(_stage_view(stage, pen, number) for number, stage in enumerate(content.stages))
        reports = tuple(_report_view(report, pen, number) for number, report in enumerate(content.reports))
        course = content.last.course
        # Until there are scores, the page begins with how the search is going.
        progress = None if reports or not course.points else _view(search_drawings(course, pen)[0], "now")
    return render(
        "run.html.j2",
        pen,
        language=language,
        reload_s=reload_s,
        run=content,
        sources=" + ".join(source_names(content)),
        unscored=pen.say("comma").join(_called(name, pen) for name in content.unscored),
        stages=stages,
        progress=progress,
        reports=reports,
        most_candidates=MOST_CANDIDATES,
        most_failures=_MOST_FAILURES,
        right_from=RIGHT_FROM,
    )


def runs_page(content: RunsContent, *, language: str) -> str:
    """Return the page that compares several runs. Raises ConfigError for an unknown language."""
    pen = page_pen(speaker(language))
    with style(pen):
        view = _view(bands_drawing(content.bands, pen), "runs") if content.bands else None
        reports = [
            (label, report) for label, run in zip(content.labels, content.runs, strict=True) for report in run.reports
        ]
        standings = [(label, _report_view(report, pen, number)) for number, (label, report) in enumerate(reports)]
    return render("runs.html.j2", pen, language=language, compared=content, view=view, standings=standings)


def run_drawings(content: RunContent, pen: Pen) -> list[tuple[str, Drawing]]:
    """Return every figure of a run with a name for its file; call it inside `style`."""
    found = [(f"standings-{report.name}", standings_drawing(report, pen)) for report in content.reports]
    for stage in content.stages:
        drawn = [*search_drawings(stage.course, pen), *recipe_drawings(stage.numbers, stage.path, pen)]
        drawn += [cost_drawing(stage.cost, pen)] if stage.cost.seconds else []
        found += [(f"{stage.name}-{each.key}".strip("-"), each) for each in drawn]
    return found


def source_names(content: RunContent) -> list[str]:
    """Return the names of all sources, or of all models in a run without sources."""
    names = [model.part.split(".")[-1] for model in content.models if ".sources." in f".{model.part}"]
    return list(dict.fromkeys(names)) or [model.text for model in content.models]


def _called(name: str, pen: Pen) -> str:
    """Return the name of a model without answers."""
    return pen.say(name) if name in (WINNER, EQUAL_WEIGHTS, RANDOM, PS) else name


def _stage_view(stage: Stage, pen: Pen, number: int) -> StageView:
    def views(drawings: Sequence[Drawing]) -> tuple[FigureView, ...]:
        return tuple(_view(drawing, f"s{number}-{drawing.key}") for drawing in drawings)

    cost = cost_drawing(stage.cost, pen) if stage.cost.seconds else None
    return StageView(
        stage=stage,
        pick_command=shlex.join(["evovlm", "export", stage.folder, "--pick", "CANDIDATE", "--out", "recipe.yaml"]),
        optuna_command=shlex.join(["evovlm", "export", stage.folder, "--format", "optuna", "--out", "study.db"]),
        search=views(search_drawings(stage.course, pen)),
        recipe=views(recipe_drawings(stage.numbers, stage.path, pen)),
        cost=_view(cost, f"s{number}-cost") if cost else None,
    )


def _report_view(report: TaskReport, pen: Pen, number: int) -> ReportView:
    drawing = standings_drawing(report, pen)
    names = tuple(model_text(name, role, pen) for name, role in zip(report.names, report.roles, strict=True))
    return ReportView(report=report, figure=_view(drawing, f"r{number}"), names=names)


def _view(drawing: Drawing, prefix: str) -> FigureView:
    # Our own drawing; text from outside was escaped when it was drawn.
    return FigureView(drawing=drawing, svg=Markup(inline_svg(drawing, prefix=prefix)))  # noqa: S704


def render(
    template: str,
    pen: Pen,
    *,
    language: str,
    reload_s: int | None = None,
    script: str = "page.js",
    forms: bool = False,
    **values: object,
) -> str:
    """Return a template filled in with `values`, as a page with one of our scripts; `forms` may be sent to its server.

    The page may load nothing, and run this script alone.
    """
    sheet, code = ((_TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("page.css", script))
    colours = "; ".join(f"{name}: {colour}" for name, colour in LIGHT.variables().items())
    css = f":root {{ {colours} }}\n{sheet}"
    return (
        _environment()
        .get_template(template)
        .render(
            say=pen.say,
            language=language,
            reload_s=reload_s,
            css=Markup(css),  # noqa: S704 - our own file
            script=Markup(code),  # noqa: S704 - our own file
            css_hash=_hash(css),
            script_hash=_hash(code),
            forms=forms,
            version=__version__,
            unit_text=lambda unit: unit_text(unit, pen),
            phase_text=lambda phase: phase_text(phase, pen),
            model_text=lambda name, role: model_text(name, role, pen),
            measured_text=lambda measured: _measured_text(measured, pen.say),
            duration_text=lambda seconds: _duration_text(seconds, pen.say),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "percent": percent, "signed": _signed, "code": _code, "worded": worded}
    return environment


def shown(text: str) -> Markup:
    """Return text of a model or of data as HTML: escaped, its direction isolated, control characters made visible."""
    parts, place = [], 0
    for found in _CONTROLS.finditer(text):
        parts += [escape(text[place : found.start()]), _visible(found[0])]
        place = found.end()
    parts.append(escape(text[place:]))
    language = Markup(' lang="ja"') if _JAPANESE.search(text) else Markup("")
    return Markup("<bdi{}>{}</bdi>").format(language, Markup("").join(parts))


def _visible(control: str) -> Markup:
    return Markup('<span class="control">U+{}</span>').format(f"{ord(control):04X}")


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(shown(text))


def worded(text: str, say: Say) -> str:
    """Return a word that runs record in the page's language; any other text is returned as it is."""
    return say(WORDS[text]) if text in WORDS else text


def _measured_text(measured: str, say: Say) -> str:
    """Return how a task is scored in the page's language; the harness's own words are returned as they are."""
    try:
        scoring = Scoring.parse(measured)
    except ValueError:
        return measured
    is_accuracy = scoring.metric == "accuracy"
    parts = [say("measured_accuracy") if is_accuracy else scoring.metric]
    parts += [say("measured_extractor", name=scoring.extractor)] if is_accuracy else []
    parts += [scoring.clip_model] if scoring.clip_model is not None else []
    parts.append(say("measured_no_gate") if scoring.gate is None else say("measured_gate", name=scoring.gate))
    return say("comma").join(parts)


def _duration_text(seconds: float, say: Say) -> str:
    """Return a rough duration in the page's language."""
    if seconds < 90:
        return say("about_seconds", n=round(seconds))
    return (
        say("about_minutes", n=round(seconds / 60))
        if seconds < 90 * 60
        else say("about_hours", n=round(seconds / 3600))
    )


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows this script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
