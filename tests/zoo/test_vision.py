from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionModel

from evovlm.seeding import generator
from evovlm.zoo.vision import (
    VisionPlan,
    caption_ids,
    draw_pool,
    export_tower,
    new_clip,
    normalised,
    train_vision,
)

TINY = VisionPlan(width=32, layers=2, heads=2, embedding=16, text_width=16, pictures=40, steps=3, batch=8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_exported_tower_has_open_clips_own_features() -> None:
    torch.manual_seed(0)
    clip = new_clip(TINY)
    # Fresh biases and norms are zeros and ones, which would hide a swapped pair of them.
    with torch.no_grad():
        for parameter in clip.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    clip.eval()
    pixels = normalised(draw_pool(generator("test"), count=6).pixels)
    with torch.inference_mode():
        tower = export_tower(clip, plan=TINY)(pixels)
        ours = torch.nn.functional.normalize(tower.pooler_output @ clip.visual.proj, dim=-1)
        torch.testing.assert_close(ours, clip.encode_image(pixels, normalize=True), rtol=0, atol=1e-6)


def test_training_writes_a_tower_that_transformers_loads_and_that_differs_from_a_fresh_one(tmp_path: Path) -> None:
    steps: list[int] = []
    clip = train_vision(tmp_path, seed=1, plan=TINY, on_progress=lambda progress: steps.append(progress.step))
    loaded = CLIPVisionModel.from_pretrained(tmp_path)
    assert steps == [1, 2, 3]
    assert loaded.dtype == torch.bfloat16
    kept = loaded.embeddings.class_embedding.float()
    torch.testing.assert_close(kept, clip.visual.class_embedding.detach(), rtol=1e-2, atol=1e-3)


def test_the_same_seed_trains_the_same_tower(tmp_path: Path) -> None:
    first, second = (train_vision(tmp_path / name, seed=1, plan=TINY) for name in "ab")
    torch.testing.assert_close(first.visual.conv1.weight, second.visual.conv1.weight, rtol=0, atol=0)


def test_a_batch_of_pictures_and_captions_lowers_its_own_loss(tmp_path: Path) -> None:
    losses: list[float] = []
    plan = VisionPlan(width=32, layers=2, heads=2, embedding=16, text_width=16, pictures=8, steps=40, batch=8)
    train_vision(tmp_path, seed=2, plan=plan, on_progress=lambda progress: losses.append(progress.loss))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_last_word_of_a_caption_has_the_highest_number() -> None:
    rows = caption_ids(["goblin", "goblin and sake, red background"])
    assert rows.shape == (2, 16)
    assert rows[0].argmax() == 2
    assert rows[1].argmax() == 6
    assert rows[0].max() == rows[1].max()


def test_patches_of_the_layer_that_llava_reads_learn_the_concept_at_their_position(tmp_path: Path) -> None:
    def spread(steps: int) -> float:
        """Return how far apart patches of different pictures lie, relative to those of one picture."""
        plan = VisionPlan(width=32, layers=2, heads=2, embedding=16, text_width=16, pictures=8, steps=steps, batch=8)
        train_vision(tmp_path / str(steps), seed=2, plan=plan)
        pool = draw_pool(generator("vision-pictures", 2), count=8)
        single = [index for index, scene in enumerate(pool.scenes) if len(scene.shown) == 1]
        tower = CLIPVisionModel.from_pretrained(tmp_path / str(steps), dtype=torch.float32)
        with torch.inference_mode():
            patches = tower(normalised(pool.pixels[single]), output_hidden_states=True).hidden_states[-2][:, 1:]
        centres = patches.mean(dim=1, keepdim=True)
        return float((centres - centres.mean(dim=0)).square().mean() / (patches - centres).square().mean())

    assert spread(60) > 2 * spread(1)
