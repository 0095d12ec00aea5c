"""Measure what kept image features save for the candidates of a search over a VLM.

    python benchmarks/vlm_candidates.py [--models zoo:vlm llava-small llava-0.5b] [--pictures 32] [--layers 1]

Prints the table of benchmarks/LOG.md. A candidate is merged (DARE-TIES of the VLM's language model and a
text model), answers short questions about `--pictures` different pictures in at most 24 tokens, and is scored. The
first one computes the features of all pictures, later ones reuse them, and those without the store compute them again,
as if each candidate were an ordinary checkpoint. Besides zoo:vlm there are random LLaVAs with CLIP ViT-L/14-336 (576
image tokens); vision encoder and language model are both cut to `--layers` of their 24 layers, so the ratio is about
that of the whole models. The larger the language model compared with the vision encoder, the smaller the saving.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlavaConfig,
    MistralConfig,
)

from evovlm.assets import asset_path
from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Split

ZOO = "zoo:vlm"
# Hidden size and MLP of the language model: a quarter of the vision encoder's work, and the size of Qwen2-0.5B.
RANDOM = {"llava-small": (512, 1408), "llava-0.5b": (896, 4864)}


@dataclass(frozen=True)
class Times:
    """Seconds of the first candidate, and mean seconds of later ones and of those without the store."""

    first: float
    later: float
    without: float


def save_random(folder: Path, hidden: int, mlp: int, *, layers: int) -> Path:
    """Save a random LLaVA as `vlm`, its language model as `base` and another one as `ja`; return the folder."""
    zoo = asset_path("zoo/vlm")
    token = json.loads((zoo / "config.json").read_text())["image_token_index"]
    text = MistralConfig(
        vocab_size=1328,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        sliding_window=None,
        tie_word_embeddings=False,
        dtype="float32",
    )
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=token, image_seq_length=576)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder / "vlm")
    for name in ("base", "ja"):
        AutoModelForCausalLM.from_config(text).save_pretrained(folder / name)
    for name in ("vlm", "base", "ja"):
        for path in zoo.iterdir():
            if path.suffix != ".safetensors" and path.name not in ("config.json", "README.md"):
                shutil.copy(path, folder / name)
    path = folder / "vlm" / "processor_config.json"
    processor = json.loads(path.read_text())
    processor["patch_size"] = 14
    for key in ("size", "crop_size"):
        processor["image_processor"][key] = {"height": 336, "width": 336}
    path.write_text(json.dumps(processor))
    return folder


def template(folder: Path | None) -> MergeTemplate:
    """Return the merge of the zoo's models, or of the models in a folder."""
    base, vlm, ja = (
        ModelRef(text=f"zoo:{name}" if folder is None else name, origin=folder) for name in ("base", "vlm", "ja")
    )
    sources = {"vlm": vlm, "ja": ja}
    return MergeTemplate(base=base, host=vlm, sources=sources, method="dare_ties", seed=42, vocabulary="host")


def candidate(merge: MergeTemplate, number: int) -> ParameterMerge:
    """Return a recipe."""
    weights = (0.5 + 0.02 * number, 0.5 - 0.02 * number)
    return merge.recipe(
        {
            name: SourceParameters(weight=weight, density=0.8)
            for name, weight in zip(merge.sources, weights, strict=True)
        }
    )


def measure(merge: MergeTemplate, *, pictures: int, later: int, without: int) -> Times:
    """Time candidates of one search; opening the models is not counted."""
    choice = TaskChoice(name="emoji_ja", limit=pictures)
    # A separate sample, to get everything done that is done once per process.
    evaluator = Evaluator.open(merge, tasks=[TaskChoice(name="emoji_ja", limit=1)], device="cpu")
    answered(evaluator, candidate(merge, 0))

    def anew(number: int) -> tuple[Evaluator, float]:
        started = time.perf_counter()
        prepared = open_task(choice, Split.SEARCH).prepare(evaluator.loaded)
        fresh = Evaluator(resident=evaluator.resident, tasks=(prepared,), objective=evaluator.objective)
        answered(fresh, candidate(merge, number))
        return fresh, time.perf_counter() - started

    kept, first = anew(1)
    times = []
    for number in range(2, 2 + later):
        started = time.perf_counter()
        answered(kept, candidate(merge, number))
        times.append(time.perf_counter() - started)
    return Times(first=first, later=mean(times), without=mean(anew(number)[1] for number in range(without)))


def answered(evaluator: Evaluator, recipe: ParameterMerge) -> None:
    """Evaluate a candidate. Raises RuntimeError if it fails."""
    outcome = evaluator.evaluate(recipe)
    if not isinstance(outcome, Evaluation):
        raise RuntimeError(f"{recipe.recipe_id}: {outcome.reason}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=(ZOO, *RANDOM), default=(ZOO, *RANDOM))
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--later", type=int, default=1)
    parser.add_argument("--without", type=int, default=1)
    given = parser.parse_args()
    how = {"pictures": given.pictures, "later": given.later, "without": given.without}
    print(f"{given.pictures} pictures, seconds per candidate, {torch.get_num_threads()} threads")
    print("| model | first | later | without the store | without / later |")
    print("|---|---|---|---|---|")
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            merge = template(None if name == ZOO else save_random(Path(folder), *RANDOM[name], layers=given.layers))
            times = measure(merge, **how)
        ratio = times.without / times.later
        line = f"| {name} | {times.first:.2f} | {times.later:.2f} | {times.without:.2f} | {ratio:.1f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
