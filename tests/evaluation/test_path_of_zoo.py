"""Paths through the embedded models: their written checkpoints answer token for token as the running paths do."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evovlm.assets import asset_path
from evovlm.evaluation.answering import SampleTask
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.resident import load_recipe_model
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.recipes.layer_path import LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.tasks.sample import Split
from tests.paths import Steps, path_of

pytestmark = pytest.mark.slow

TARGETS: tuple[ScaleTarget, ...] = ("pending", "stream")
# Blocks in their order, some of them twice, so that answers are still sentences.
THROUGH_BOTH: Steps = (
    ("a", 0, 1.0),
    ("a", 1, 1.05),
    ("b", 2, 0.95),
    ("a", 2, 1.1),
    ("b", 3, 0.9),
    ("a", 3, 1.0),
    ("a", 4, 1.03),
    ("b", 5, 0.97),
    ("a", 5, 1.02),
)


def in_float32(name: str, folder: Path) -> Path:
    """Copy an embedded model, with its weights in float32."""
    shutil.copytree(asset_path(f"zoo/{name}"), folder)
    for file in folder.glob("*.safetensors"):
        weights = {key: weight.float() for key, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = "float32"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def answers(loaded: LoadedModel, task: str, n: int) -> list[list[int]]:
    """Return the tokens of the greedy answers to the first questions of an embedded task."""
    opened = SampleTask.open(TaskChoice(name=task, limit=n), Split.SEARCH)
    questions = [opened.task.ask(sample) for sample in opened.samples]
    prompts = [prompt for prompt in prepare_prompts(loaded, questions) if isinstance(prompt, Prompt)]
    assert len(prompts) == n
    limit = opened.decoding.max_new_tokens
    return generate_greedy(loaded, prompts, max_new_tokens=limit, stop_ids={loaded.tokenizer.eos_token_id})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("host", "task"), [("math-a", "word_problems_ja"), ("vlm", "emoji_ja")])
def test_the_checkpoint_of_a_path_answers_token_for_token_as_the_path(
    tmp_path: Path, host: str, task: str, target: ScaleTarget
) -> None:
    first, second = in_float32(host, tmp_path / "a"), in_float32("ja", tmp_path / "b")
    recipe = LayerPathMerge(
        host=ModelRef(text=str(first)),
        sources={"a": ModelRef(text=str(first)), "b": ModelRef(text=str(second))},
        path=path_of(THROUGH_BOTH),
        scale_target=target,
    )
    expected = answers(load_recipe_model(recipe, device="cpu"), task, 48)
    assert answers(load_model(write_checkpoint(recipe, tmp_path / "out").folder, device="cpu"), task, 48) == expected
    assert len({tuple(row) for row in expected}) > 8
