"""Build the whole embedded zoo, from only this package and its dependencies: `make zoo`.

Order: task files (so that training can keep clear of them), tokenizer, ancestor, fine-tunes, vision tower, VLM, scores.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import MistralForCausalLM, PreTrainedTokenizerFast

from evovlm.errors import OutputError
from evovlm.evaluation.answering import score_model
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.opening import load_reference
from evovlm.files import explained, make_folder, new_folder, write_file
from evovlm.recipes.model_ref import ModelRef
from evovlm.seeding import derive_seed, generator
from evovlm.zoo.adapters import extract_adapter
from evovlm.zoo.catalogue import MAKING, ZooModel, write_catalogue
from evovlm.zoo.concepts import concept_texts
from evovlm.zoo.corpus import (
    ABILITY,
    MUDDLED,
    Example,
    ancestor_examples,
    japanese_examples,
    specialist_examples,
)
from evovlm.zoo.emoji import write_tasks
from evovlm.zoo.language_models import Progress, fit, new_language_model, save_language_model, train_tokenizer
from evovlm.zoo.vision import train_vision
from evovlm.zoo.vlm import train_vlm
from evovlm.zoo.word_problems import Problem, draw_problems

SEARCH_PROBLEMS = 240
REPORT_PROBLEMS = 400
REPORT_HELD_OUT = 100
"""Number of report problems worded by templates that no training and no search has seen."""

FINE_TUNES = ("math-a", "math-b", "ja")
ADAPTER = "lora-"
"""What precedes a fine-tune's name in that of its adapter."""
TEXT_TASKS = ("word_problems_ja", "word_problems_en")
PICTURE_TASKS = ("emoji_ja", "emoji_en")

TOKENIZER_PIECES = 1320
TOKENS_PER_STEP = 4096
ABILITY_STEPS = 1600
MUDDLED_STEPS = 200
SPECIALIST_STEPS = 30
JAPANESE_STEPS = 100

Report = Callable[[str], None]
"""Receives one line about the progress of a training."""


def build_zoo(folder: Path, *, seed: int, report: Report) -> None:
    """Build everything into `folder`: tasks, models (each appears once it is trained), catalogue.json and README.md.

    Raises OutputError when something cannot be written, OutputExists when a folder in the way is not a model.
    """
    torch.set_num_threads(min(2, torch.get_num_threads()))
    seconds: dict[str, float] = {}
    tasks = folder / "tasks"
    write_word_problem_tasks(tasks, seed=seed)
    write_tasks(tasks)
    base = folder / "base"
    with TemporaryDirectory() as scratch:
        vision = Path(scratch) / "vision"
        parts: Mapping[str, Callable[[Path], object]] = {
            "base": lambda out: train_base(out, tasks=tasks, seed=seed, report=report),
            **{
                name: partial(train_fine_tune, name, base=base, tasks=tasks, seed=seed, report=report)
                for name in FINE_TUNES
            },
            **{f"{ADAPTER}{name}": partial(_extract, folder / name, base=base) for name in FINE_TUNES},
            "vision": lambda out: train_vision(out, seed=seed),
            "vlm": lambda out: train_vlm(base, vision, out, seed=seed),
        }
        for name, make in parts.items():
            report(f"{name}: begins")
            began = time.monotonic()
            _make_folder_of(name, vision if name == "vision" else folder / name, make)
            seconds[name] = time.monotonic() - began
            report(f"{name}: done in {seconds[name]:.0f} s")
    write_catalogue(scored_models(folder), folder=folder, seconds=seconds)


def _extract(fine_tune: Path, out: Path, *, base: Path) -> None:
    extract_adapter(fine_tune, out, base=base, base_name="zoo:base")


def _count_parameters(folder: Path) -> int:
    """Return the number of weights in a model's or an adapter's own file."""
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def _make_folder_of(name: str, out: Path, make: Callable[[Path], object]) -> None:
    try:
        with new_folder(out, overwrite=True) as unfinished, explained(out):
            make(unfinished)
    except SafetensorError as error:
        raise OutputError(f"{out}: the weights of {name} cannot be written ({error}).\n    Free some space.") from error


def scored_models(folder: Path) -> tuple[ZooModel, ...]:
    """Score every model of the zoo in `folder` on the report splits in the same folder."""
    models = []
    for name, made_from in MAKING.items():
        text = f"{folder / 'base'}+{folder / name}" if name.startswith(ADAPTER) else str(folder / name)
        loaded = load_reference(ModelRef(text=text), device="cpu")
        names = [*TEXT_TASKS, *(PICTURE_TASKS if loaded.sees else ())]
        choices = [TaskChoice(name=task, data=folder / "tasks" / f"{task}.report.jsonl") for task in names]
        scores = {each.name: round(each.score.score, 4) for each in score_model(loaded, tasks=choices)}
        parameters = _count_parameters(folder / name)
        models.append(ZooModel(name=name, made_from=made_from, parameters=parameters, scores=scores))
    return tuple(models)


def write_word_problem_tasks(folder: Path, *, seed: int) -> None:
    """Write `word_problems_{ja,en}.{search,report}.jsonl`; no instance occurs twice in all splits together."""
    rng = generator("zoo", "word_problems", seed)
    taken: set[str] = set()
    search = list(_fresh(rng, count=SEARCH_PROBLEMS, held_out=False, taken=taken))
    report = list(_fresh(rng, count=REPORT_PROBLEMS - REPORT_HELD_OUT, held_out=False, taken=taken))
    unseen = list(_fresh(rng, count=REPORT_HELD_OUT, held_out=True, taken=taken))
    make_folder(folder)
    splits = {
        "search": [(p, False) for p in search],
        "report": [(p, False) for p in report] + [(p, True) for p in unseen],
    }
    for split, problems in splits.items():
        for language in ("ja", "en"):
            rows = (_row(index, problem, split, language, new) for index, (problem, new) in enumerate(problems))
            path = folder / f"word_problems_{language}.{split}.jsonl"
            write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _fresh(rng: np.random.Generator, *, count: int, held_out: bool, taken: set[str]) -> Iterator[Problem]:
    while count:
        problem = next(draw_problems(rng, count=1, held_out=held_out))
        if problem.plan not in taken:
            taken.add(problem.plan)
            count -= 1
            yield problem


def _row(index: int, problem: Problem, split: str, language: str, new_wording: bool) -> dict[str, object]:
    japanese = language == "ja"
    return {
        "id": f"{split}-{index:03d}",
        "question": problem.question_ja if japanese else problem.question_en,
        "answer": problem.solution_ja if japanese else problem.solution_en,
        "number": problem.number,
        "kind": problem.kind,
        "steps": problem.steps,
        "plan": problem.plan,
        "tags": [f"steps-{problem.steps}", *(["new-wording"] if new_wording and japanese else [])],
    }


def withheld_plans(folder: Path) -> frozenset[str]:
    """Return the instances of all splits, which must not occur in any training text."""
    paths = sorted(folder.glob("word_problems_ja.*.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return frozenset(json.loads(line)["plan"] for line in lines)


def train_base(folder: Path, *, tasks: Path, seed: int, report: Report) -> None:
    """Train the tokenizer and the ancestor of all embedded models."""
    withheld = withheld_plans(tasks)
    rng = generator("zoo", "tokenizer", seed)
    drawn = ancestor_examples(rng, count=60_000, muddle=ABILITY, withheld=lambda problem: problem.plan in withheld)
    names = (text for pair in concept_texts(rng, 20_000) for text in pair)
    tokenizer = train_tokenizer(
        (text for texts in (names, (t for pair in drawn for t in pair)) for text in texts),
        folder=folder,
        pieces=TOKENIZER_PIECES,
    )
    model = new_language_model(tokenizer, seed=derive_seed("zoo", "base", seed) % 2**63)
    for name, muddle, steps, rate, muon in (
        ("ability", ABILITY, ABILITY_STEPS, 3e-3, True),
        ("muddled", MUDDLED, MUDDLED_STEPS, 6e-4, True),
    ):
        _fit(
            model,
            tokenizer,
            name=f"base ({name})",
            draw=lambda rng, count, m=muddle: ancestor_examples(  # type: ignore[misc]
                rng, count=count, muddle=m, withheld=lambda problem: problem.plan in withheld
            ),
            steps=steps,
            learning_rate=rate,
            muon=muon,
            seed=seed,
            report=report,
        )
    save_language_model(model, tokenizer_folder=folder, folder=folder)


Draw = Callable[[np.random.Generator, int], Iterator[Example]]


def train_fine_tune(name: str, folder: Path, *, base: Path, tasks: Path, seed: int, report: Report) -> None:
    """Fine-tune the ancestor by one small step into `math-a`, `math-b` or `ja`."""
    withheld = withheld_plans(tasks)

    def kept_out(problem: Problem) -> bool:
        return problem.plan in withheld

    draws: Mapping[str, Draw] = {
        "math-a": lambda rng, count: specialist_examples(rng, count=count, specialist="a", withheld=kept_out),
        "math-b": lambda rng, count: specialist_examples(rng, count=count, specialist="b", withheld=kept_out),
        "ja": lambda rng, count: japanese_examples(rng, count=count, withheld=kept_out),
    }
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(base)
    model = MistralForCausalLM.from_pretrained(base, dtype=torch.float32)
    _fit(
        model,
        tokenizer,
        name=name,
        draw=draws[name],
        steps=JAPANESE_STEPS if name == "ja" else SPECIALIST_STEPS,
        learning_rate=3e-4,
        muon=False,
        seed=seed,
        report=report,
    )
    save_language_model(model, tokenizer_folder=base, folder=folder)


def _fit(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    name: str,
    draw: Draw,
    steps: int,
    learning_rate: float,
    muon: bool,
    seed: int,
    report: Report,
) -> None:
    rng = generator("zoo", name, seed)
    torch.manual_seed(derive_seed("zoo", name, "batches", seed) % 2**63)
    fit(
        model,
        tokenizer,
        examples=lambda count: draw(rng, count),
        steps=steps,
        tokens_per_step=TOKENS_PER_STEP,
        learning_rate=learning_rate,
        muon=muon,
        on_progress=lambda progress: _report_step(report, name, progress),
    )


def _report_step(report: Report, name: str, progress: Progress) -> None:
    if progress.step % 50 == 0 or progress.step == progress.steps:
        report(f"{name}: step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")
